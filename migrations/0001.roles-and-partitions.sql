-- The role that every application login is a member of, and the maker of monthly partitions.
-- depends:

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'zenzefi_app') THEN
        CREATE ROLE zenzefi_app NOLOGIN;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;  -- another database of this cluster made it just now
END
$$;

GRANT USAGE ON SCHEMA public TO zenzefi_app;

-- The least UUIDv7 of an instant: 48 bits of Unix milliseconds, then zeros (RFC 9562, section 5.7). Tables that are
-- keyed by UUIDv7 are partitioned by ranges of the key itself, so that the key stays their whole primary key.
CREATE FUNCTION uuid7_floor(instant timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN rpad(lpad(to_hex(floor(extract(epoch FROM instant) * 1000)::bigint), 12, '0'), 32, '0')::uuid;

-- Makes the monthly partitions of a table from the month of `since` on; those that exist are left alone.
CREATE FUNCTION create_month_partitions(parent regclass, since timestamptz, months integer) RETURNS integer
LANGUAGE plpgsql
SET timezone = 'UTC'
AS $$
DECLARE
    month timestamptz := date_trunc('month', since);
    child text;
    made integer := 0;
BEGIN
    FOR i IN 0 .. months - 1 LOOP
        child := format('%s_%s', parent::text, to_char(month, 'YYYY_MM'));
        IF to_regclass(child) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE %I PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',
                child, parent, uuid7_floor(month), uuid7_floor(month + interval '1 month')
            );
            made := made + 1;
        END IF;
        month := month + interval '1 month';
    END LOOP;
    RETURN made;
END
$$;
