-- The run that may publish a backup: a process that was stopped for a while finds another's id here, and keeps silent.
-- depends: 0013.facts

CREATE TABLE backup_fence (
    is_the_only_row boolean PRIMARY KEY DEFAULT true CONSTRAINT backup_fence_one_row CHECK (is_the_only_row),
    run_id uuid,
    taken_at timestamptz
);
INSERT INTO backup_fence DEFAULT VALUES;

GRANT SELECT, UPDATE ON backup_fence TO zenzefi_app;
