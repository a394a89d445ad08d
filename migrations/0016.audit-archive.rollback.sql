DROP FUNCTION drop_archived_audit_month(date);
DROP TABLE audit_archive_drops;
DROP TABLE audit_archives;
