-- Old months of the audit log go to S3, and only then from the database. Their seals stay.
-- depends: 0011.audit-chain 0014.backups

-- One row for each object that was stored and read back; a month may have several, and the newest counts.
CREATE TABLE audit_archives (
    id uuid PRIMARY KEY,
    month date NOT NULL,
    object_key text NOT NULL,
    row_count bigint NOT NULL,
    size_bytes bigint NOT NULL,
    sha256 bytea NOT NULL,
    archived_at timestamptz NOT NULL,
    CONSTRAINT audit_archives_month_check CHECK (extract(day FROM month) = 1),
    CONSTRAINT audit_archives_row_count_check CHECK (row_count >= 0),
    CONSTRAINT audit_archives_hash_is_sha256 CHECK (octet_length(sha256) = 32)
);
CREATE INDEX audit_archives_month_idx ON audit_archives (month, id);

-- Which ranges of ids the log no longer has, so that the verification can tell a dropped month from a missing row. Only
-- the function below writes it.
CREATE TABLE audit_archive_drops (
    month date PRIMARY KEY,
    archive_id uuid NOT NULL,
    first_id uuid NOT NULL,
    end_id uuid NOT NULL,
    row_count bigint NOT NULL,
    dropped_at timestamptz NOT NULL,
    CONSTRAINT audit_archive_drops_archive_id_fkey FOREIGN KEY (archive_id) REFERENCES audit_archives (id)
);

GRANT SELECT, INSERT ON audit_archives TO zenzefi_app;
GRANT SELECT ON audit_archive_drops TO zenzefi_app;

-- Drops the partition of a month; false when an earlier run has done so. It refuses a month that ended less than 30 days
-- ago whatever the settings say, one without an archive of as many rows as it has, and one of which a row has no seal
-- or a seal has no row. From the counting on nobody can add a row. lock_timeout: dropping locks the whole log for a
-- moment; rather than queue in front of the traffic behind a long transaction, it gives up and the next run tries again.
CREATE FUNCTION drop_archived_audit_month(wanted date) RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = public, pg_temp
SET timezone = 'UTC'
SET lock_timeout = '1s'
AS $$
DECLARE
    month_end timestamptz := (wanted + interval '1 month')::timestamptz;
    from_id uuid := uuid7_floor(wanted::timestamptz);
    to_id uuid := uuid7_floor((wanted + interval '1 month')::timestamptz);
    child text := format('audit_log_%s', to_char(wanted, 'YYYY_MM'));
    held bigint;
    sealed bigint;
    archive uuid;
BEGIN
    IF extract(day FROM wanted) <> 1 THEN
        RAISE EXCEPTION '% is not the first day of a month', wanted USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF month_end + interval '30 days' > now() THEN
        RAISE EXCEPTION 'the audit log of % is too young to be dropped', to_char(wanted, 'YYYY-MM')
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF EXISTS (SELECT FROM audit_archive_drops d WHERE d.month = wanted) THEN
        RETURN false;
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_inherits i
        WHERE i.inhparent = 'audit_log'::regclass AND i.inhrelid = to_regclass(child)
    ) THEN
        RAISE EXCEPTION 'the audit log has no partition %', child USING ERRCODE = 'undefined_table';
    END IF;
    EXECUTE format('LOCK TABLE %I IN SHARE MODE', child);
    EXECUTE format('SELECT count(*) FROM %I', child) INTO held;
    SELECT count(*) INTO sealed FROM audit_sealed_rows s WHERE s.entry_id >= from_id AND s.entry_id < to_id;
    SELECT a.id INTO archive
    FROM audit_archives a WHERE a.month = wanted AND a.row_count = held ORDER BY a.id DESC LIMIT 1;
    IF archive IS NULL OR sealed <> held THEN
        RAISE EXCEPTION 'the audit log of % has % rows and % seals, and no archive of them', to_char(wanted, 'YYYY-MM'),
            held, sealed USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    INSERT INTO audit_archive_drops (month, archive_id, first_id, end_id, row_count, dropped_at)
    VALUES (wanted, archive, from_id, to_id, held, now());
    EXECUTE format('DROP TABLE %I', child);
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION drop_archived_audit_month(date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION drop_archived_audit_month(date) TO zenzefi_app;
