-- What the gateway remembers of traffic: sessions of use, metered batches, and device leases while Redis is away.
-- depends: 0005.access

CREATE TABLE gateway_sessions (
    id uuid PRIMARY KEY,
    token_id uuid NOT NULL,
    device_hash bytea NOT NULL,
    device_hint text NOT NULL,
    ip inet,
    user_agent text,
    started_at timestamptz NOT NULL,
    last_activity timestamptz NOT NULL,
    ended_at timestamptz,
    request_count bigint NOT NULL,
    bytes_in bigint NOT NULL,
    bytes_out bigint NOT NULL,
    CONSTRAINT gateway_sessions_token_id_fkey FOREIGN KEY (token_id) REFERENCES access_tokens (id)
);
CREATE UNIQUE INDEX gateway_sessions_open_key ON gateway_sessions (token_id, device_hash) WHERE ended_at IS NULL;
CREATE INDEX gateway_sessions_token_idx ON gateway_sessions (token_id, id DESC);
CREATE INDEX gateway_sessions_idle_idx ON gateway_sessions (last_activity) WHERE ended_at IS NULL;

-- One batch is what one process metered between two flushes; a batch that is sent twice changes nothing.
CREATE TABLE usage_batches (
    batch_id uuid NOT NULL,
    token_id uuid NOT NULL,
    user_id uuid NOT NULL,
    hour timestamptz NOT NULL,
    outcome text NOT NULL,
    requests bigint NOT NULL,
    bytes_in bigint NOT NULL,
    bytes_out bigint NOT NULL,
    PRIMARY KEY (batch_id, token_id, hour, outcome)
) PARTITION BY RANGE (batch_id);
CREATE TABLE usage_batches_default PARTITION OF usage_batches DEFAULT;
CREATE INDEX usage_batches_user_idx ON usage_batches (user_id, hour);
SELECT create_month_partitions('usage_batches', now(), 3);

CREATE TABLE device_leases (
    token_id uuid PRIMARY KEY,
    device_hash bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT device_leases_token_id_fkey FOREIGN KEY (token_id) REFERENCES access_tokens (id)
);

GRANT SELECT, INSERT, UPDATE, DELETE ON gateway_sessions, device_leases TO zenzefi_app;
GRANT SELECT, INSERT ON usage_batches TO zenzefi_app;
