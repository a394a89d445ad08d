-- Lets the application have next months' partitions made, without letting it own or alter a table.
-- depends: 0006.gateway

-- Every table that is partitioned by a UUIDv7 key gets its partitions of this month and the two after. It runs with the
-- rights of its owner, takes nothing from its caller, and finds its names in this schema only. A month of which the
-- default partition already holds rows cannot get its partition: those rows stay where they are, and the others are made.
-- lock_timeout: a new partition locks its parent for a moment; rather than queue in front of the traffic behind a long
-- transaction, it gives up and the next run tries again.
CREATE FUNCTION make_partitions_ahead() RETURNS integer
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
        WHERE c.relnamespace = 'public'::regnamespace AND p.partnatts = 1 AND a.atttypid = 'uuid'::regtype
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
REVOKE ALL ON FUNCTION make_partitions_ahead() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_partitions_ahead() TO zenzefi_app;
