-- Moves rows that came before their month had its partition out of the default partition, into one of their own.
-- depends: 0017.mail

-- The month that a partition key belongs to; null where it is none of these centuries, as a random UUID may have it.
CREATE FUNCTION month_of_key(key text, key_type regtype) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE STRICT
SET timezone = 'UTC'
AS $$
DECLARE
    instant timestamptz;
BEGIN
    IF key_type = 'uuid'::regtype THEN
        instant := to_timestamp(('x' || substr(replace(key, '-', ''), 1, 12))::bit(48)::bigint / 1000.0);
    ELSE
        instant := key::timestamptz;
    END IF;
    RETURN CASE WHEN instant BETWEEN '2000-01-01' AND '2200-01-01' THEN date_trunc('month', instant) END;
END
$$;

-- Makes a month's partition of what the default partition holds of it; returns the number of rows. Everybody sees each
-- row once. Writers to the default partition wait until the transaction ends, and its readers from the last step on.
-- A large month takes its time: 50,000 rows/s.
CREATE FUNCTION move_default_rows(parent regclass, month timestamptz) RETURNS bigint
LANGUAGE plpgsql
SET timezone = 'UTC'
AS $$
DECLARE
    child text := format('%s_%s', parent::text, to_char(month, 'YYYY_MM'));
    rest text := format('%s_default', parent::text);
    key name;
    key_type regtype;
    low text := month::text;
    high text := (month + interval '1 month')::text;
    moved bigint;
BEGIN
    SELECT a.attname, a.atttypid INTO STRICT key, key_type
    FROM pg_partitioned_table p
    JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
    WHERE p.partrelid = parent;
    IF key_type = 'uuid'::regtype THEN
        low := uuid7_floor(month)::text;
        high := uuid7_floor(month + interval '1 month')::text;
    END IF;
    EXECUTE format('LOCK TABLE %I IN SHARE ROW EXCLUSIVE MODE', rest);
    EXECUTE format(
        'CREATE TABLE %I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE)',
        child, parent
    );
    EXECUTE format(
        'WITH moved AS (DELETE FROM %I WHERE %I >= %L AND %I < %L RETURNING *) INSERT INTO %I SELECT * FROM moved',
        rest, key, low, key, high, child
    );
    GET DIAGNOSTICS moved = ROW_COUNT;
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, child, low, high);
    RETURN moved;
END
$$;
REVOKE ALL ON FUNCTION move_default_rows(regclass, timestamptz) FROM PUBLIC;

-- Does so for one month of one of the tables that are partitioned by month, and returns the number of rows that were
-- moved: 0 once nothing is left. One a call, for each takes locks that last until its transaction ends. It runs with
-- the rights of its owner and takes nothing from its caller. Left where they are: months of which other tables point to rows,
-- as they do into the ledger's transactions, which stay for ever in any case; months of the audit log that were archived
-- and dropped, for such a row is none of them; and months of more than 100,000 rows, which the owner may move by
-- move_default_rows at a quiet time. lock_timeout: rather than queue in front of the traffic behind a long transaction,
-- it leaves a month to the next run.
CREATE FUNCTION empty_default_partitions() RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = public, pg_temp
SET timezone = 'UTC'
SET lock_timeout = '1s'
AS $$
DECLARE
    partitioned record;
    found record;
BEGIN
    FOR partitioned IN
        SELECT p.partrelid::regclass AS parent, a.attname AS key, a.atttypid::regtype AS key_type
        FROM pg_partitioned_table p
        JOIN pg_class c ON c.oid = p.partrelid
        JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
        WHERE c.relnamespace = 'public'::regnamespace AND p.partnatts = 1 AND p.partdefid <> 0
            AND a.atttypid IN ('uuid'::regtype, 'timestamptz'::regtype, 'date'::regtype)
            AND NOT EXISTS (SELECT FROM pg_constraint f WHERE f.contype = 'f' AND f.confrelid = p.partrelid)
        ORDER BY c.relname
    LOOP
        FOR found IN EXECUTE format(
            'SELECT month_of_key(%I::text, %L) AS month, count(*) AS held FROM %I GROUP BY 1 ORDER BY 1',
            partitioned.key, partitioned.key_type, partitioned.parent::text || '_default'
        ) LOOP
            CONTINUE WHEN found.month IS NULL OR found.month > now() + interval '2 months';
            CONTINUE WHEN partitioned.parent = 'audit_log'::regclass
                AND EXISTS (SELECT FROM audit_archive_drops d WHERE d.month = found.month::date);
            IF found.held > 100000 THEN
                RAISE WARNING 'the default partition of % holds % rows of %', partitioned.parent, found.held,
                    to_char(found.month, 'YYYY-MM');
                CONTINUE;
            END IF;
            BEGIN
                RETURN move_default_rows(partitioned.parent, found.month);
            EXCEPTION
                WHEN lock_not_available OR duplicate_table THEN
                    RAISE WARNING 'the rows of % of % stay where they are: %', to_char(found.month, 'YYYY-MM'),
                        partitioned.parent, sqlerrm;
            END;
        END LOOP;
    END LOOP;
    RETURN 0;
END
$$;
REVOKE ALL ON FUNCTION empty_default_partitions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION empty_default_partitions() TO zenzefi_app;
