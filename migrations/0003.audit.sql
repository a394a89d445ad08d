-- Who changed what: written in the transaction of the change, never altered.
-- depends: 0002.accounts

CREATE TABLE audit_log (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    actor_kind text NOT NULL,
    actor_user_id uuid,
    action text NOT NULL,
    resource_type text NOT NULL,
    resource_id text NOT NULL,
    before jsonb,
    after jsonb,
    ip inet,
    user_agent text,
    request_id text,
    CONSTRAINT audit_log_actor_kind_check CHECK (actor_kind IN ('user', 'system', 'operator')),
    CONSTRAINT audit_log_user_is_named CHECK (actor_kind <> 'user' OR actor_user_id IS NOT NULL)
) PARTITION BY RANGE (id);
CREATE TABLE audit_log_default PARTITION OF audit_log DEFAULT;
CREATE INDEX audit_log_actor_idx ON audit_log (actor_user_id, id DESC);
CREATE INDEX audit_log_action_idx ON audit_log (action, id DESC);
CREATE INDEX audit_log_resource_idx ON audit_log (resource_type, resource_id, id DESC);
SELECT create_month_partitions('audit_log', now(), 3);

GRANT SELECT, INSERT ON audit_log TO zenzefi_app;
