-- Seals over the audit log: a hash chain over batches of committed rows, made by a job, so that no writer waits for it.
-- depends: 0010.referrals

CREATE TABLE audit_seals (
    seal_no bigint PRIMARY KEY,
    sealed_at timestamptz NOT NULL,
    covered_until timestamptz NOT NULL,
    row_count bigint NOT NULL,
    previous_hash bytea NOT NULL,
    seal_hash bytea NOT NULL,
    CONSTRAINT audit_seals_hashes_are_sha256 CHECK (
        octet_length(previous_hash) = 32 AND octet_length(seal_hash) = 32
    ),
    CONSTRAINT audit_seals_row_count_check CHECK (row_count > 0)
);

-- Which rows a seal covers, in the order in which they were hashed, and the hash of each. No foreign key to the log:
-- that a row is gone is for the verification to tell.
CREATE TABLE audit_sealed_rows (
    entry_id uuid PRIMARY KEY,
    seal_no bigint NOT NULL,
    row_hash bytea NOT NULL,
    CONSTRAINT audit_sealed_rows_hash_is_sha256 CHECK (octet_length(row_hash) = 32)
) PARTITION BY RANGE (entry_id);
CREATE TABLE audit_sealed_rows_default PARTITION OF audit_sealed_rows DEFAULT;
CREATE INDEX audit_sealed_rows_seal_idx ON audit_sealed_rows (seal_no, entry_id);
SELECT create_month_partitions('audit_sealed_rows', now(), 3);

GRANT SELECT, INSERT ON audit_seals, audit_sealed_rows TO zenzefi_app;
