-- Usage by the hour and by the day; the batches that it is summed from are deleted in the same transaction.
-- depends: 0014.backups

-- A meter is one process's counting. It sends one batch at a time, and numbers them: the last number stored tells a
-- batch that is sent again, for as long as the row stays, however long ago the batch itself was rolled up.
CREATE TABLE usage_meters (
    meter_id uuid PRIMARY KEY,
    batch_no bigint NOT NULL,
    at timestamptz NOT NULL
);

CREATE TABLE usage_hourly (
    user_id uuid NOT NULL,
    hour timestamptz NOT NULL,
    token_id uuid NOT NULL,
    outcome text NOT NULL,
    requests bigint NOT NULL,
    bytes_in bigint NOT NULL,
    bytes_out bigint NOT NULL,
    PRIMARY KEY (user_id, hour, token_id, outcome)
) PARTITION BY RANGE (hour);
CREATE TABLE usage_hourly_default PARTITION OF usage_hourly DEFAULT;

-- Days are those of UTC.
CREATE TABLE usage_daily (
    user_id uuid NOT NULL,
    day date NOT NULL,
    token_id uuid NOT NULL,
    outcome text NOT NULL,
    requests bigint NOT NULL,
    bytes_in bigint NOT NULL,
    bytes_out bigint NOT NULL,
    PRIMARY KEY (user_id, day, token_id, outcome)
) PARTITION BY RANGE (day);
CREATE TABLE usage_daily_default PARTITION OF usage_daily DEFAULT;

-- As in 0001, and now also for tables that are partitioned by an instant or a day.
CREATE OR REPLACE FUNCTION create_month_partitions(parent regclass, since timestamptz, months integer) RETURNS integer
LANGUAGE plpgsql
SET timezone = 'UTC'
AS $$
DECLARE
    month timestamptz := date_trunc('month', since);
    child text;
    key_type regtype;
    made integer := 0;
BEGIN
    SELECT a.atttypid INTO STRICT key_type
    FROM pg_partitioned_table p
    JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
    WHERE p.partrelid = parent;
    FOR i IN 0 .. months - 1 LOOP
        child := format('%s_%s', parent::text, to_char(month, 'YYYY_MM'));
        IF to_regclass(child) IS NULL THEN
            IF key_type = 'uuid'::regtype THEN
                EXECUTE format(
                    'CREATE TABLE %I PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',
                    child, parent, uuid7_floor(month), uuid7_floor(month + interval '1 month')
                );
            ELSE
                EXECUTE format(
                    'CREATE TABLE %I PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',
                    child, parent, month, month + interval '1 month'
                );
            END IF;
            made := made + 1;
        END IF;
        month := month + interval '1 month';
    END LOOP;
    RETURN made;
END
$$;

-- As in 0007, and now also for tables that are partitioned by an instant or a day.
CREATE OR REPLACE FUNCTION make_partitions_ahead() RETURNS integer
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = public, pg_temp
SET timezone = 'UTC'
SET lock_timeout = '1s'
AS $$
DECLARE
    parent regclass;
    made integer := 0;
BEGIN
    FOR parent IN
        SELECT p.partrelid
        FROM pg_partitioned_table p
        JOIN pg_class c ON c.oid = p.partrelid
        JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
        WHERE c.relnamespace = 'public'::regnamespace AND p.partnatts = 1
            AND a.atttypid IN ('uuid'::regtype, 'timestamptz'::regtype, 'date'::regtype)
        ORDER BY c.relname
    LOOP
        FOR ahead IN 0 .. 2 LOOP
            BEGIN
                made := made + create_month_partitions(parent, now() + ahead * interval '1 month', 1);
            EXCEPTION
                WHEN check_violation THEN
                    RAISE WARNING 'the default partition of % holds rows that a monthly partition should', parent;
            END;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;

SELECT create_month_partitions('usage_hourly', now(), 3);
SELECT create_month_partitions('usage_daily', now(), 3);

-- Drops the months of usage that are over for longer than they are kept, and empty months of batches. It runs with the
-- rights of its owner, touches no other table, and keeps a month and a half whatever its caller says. Returns the number
-- of tables dropped. What the default partitions hold of those months is deleted.
CREATE FUNCTION drop_old_usage(keep_hourly_days integer, keep_daily_days integer) RETURNS integer
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = public, pg_temp
SET timezone = 'UTC'
SET lock_timeout = '1s'
AS $$
DECLARE
    hourly_until timestamptz := date_trunc('month', now() - greatest(keep_hourly_days, 45) * interval '1 day');
    daily_until timestamptz := date_trunc('month', now() - greatest(keep_daily_days, 45) * interval '1 day');
    batches_until timestamptz := date_trunc('month', now() - interval '45 days');
    old record;
    in_use boolean;
    dropped integer := 0;
BEGIN
    DELETE FROM usage_hourly_default WHERE hour < hourly_until;
    DELETE FROM usage_daily_default WHERE day < daily_until::date;
    FOR old IN
        SELECT parent.relname AS parent, child.relname AS child
        FROM pg_inherits
        JOIN pg_class parent ON parent.oid = inhparent
        JOIN pg_class child ON child.oid = inhrelid
        WHERE parent.relnamespace = 'public'::regnamespace
            AND parent.relname IN ('usage_hourly', 'usage_daily', 'usage_batches')
            AND child.relname ~ ('^' || parent.relname || '_[0-9]{4}_[0-9]{2}$')
            AND to_timestamp(right(child.relname, 7), 'YYYY_MM') < CASE parent.relname
                WHEN 'usage_hourly' THEN hourly_until
                WHEN 'usage_daily' THEN daily_until
                ELSE batches_until
            END
        ORDER BY child.relname
    LOOP
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', old.parent);
        in_use := false;
        IF old.parent = 'usage_batches' THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM %I)', old.child) INTO in_use;
        END IF;
        IF NOT in_use THEN
            EXECUTE format('DROP TABLE %I', old.child);
            dropped := dropped + 1;
        END IF;
    END LOOP;
    RETURN dropped;
END
$$;
REVOKE ALL ON FUNCTION drop_old_usage(integer, integer) FROM PUBLIC;

GRANT SELECT, INSERT, UPDATE, DELETE ON usage_meters TO zenzefi_app;
GRANT SELECT, INSERT, UPDATE ON usage_hourly, usage_daily TO zenzefi_app;
GRANT DELETE ON usage_batches TO zenzefi_app;
GRANT EXECUTE ON FUNCTION drop_old_usage(integer, integer) TO zenzefi_app;
