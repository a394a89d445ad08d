DROP TABLE audit_sealed_rows;
DROP TABLE audit_seals;
