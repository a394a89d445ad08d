-- The role stays: it belongs to the cluster, and other databases may use it.
DROP FUNCTION create_month_partitions(regclass, timestamptz, integer);
DROP FUNCTION uuid7_floor(timestamptz);
REVOKE USAGE ON SCHEMA public FROM zenzefi_app;
