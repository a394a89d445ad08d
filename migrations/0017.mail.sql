-- The outbox of mails: each is written in the transaction of what it tells of, and handed in by a job afterwards.
-- depends: 0014.backups

-- waiting: due_at is the next attempt. sending: its handing in has begun, and if nothing is heard of it by due_at nobody
-- can know whether the server has it (unknown): it is never sent again. The address is the user's own row's.
CREATE TABLE mails (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    kind text NOT NULL,
    event_id uuid NOT NULL,
    details jsonb NOT NULL,
    state text NOT NULL DEFAULT 'waiting',
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL,
    give_up_at timestamptz NOT NULL,
    outcome text,
    created_at timestamptz NOT NULL,
    CONSTRAINT mails_event_key UNIQUE (event_id, kind),
    CONSTRAINT mails_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id),
    CONSTRAINT mails_kind_check CHECK (
        kind IN ('token_expiring', 'low_balance', 'payment_received', 'password_changed')
    ),
    CONSTRAINT mails_state_check CHECK (state IN ('waiting', 'sending', 'sent', 'unknown', 'failed', 'skipped'))
);
CREATE INDEX mails_waiting_idx ON mails (due_at) WHERE state = 'waiting';
CREATE INDEX mails_sending_idx ON mails (due_at) WHERE state = 'sending';
CREATE INDEX mails_user_idx ON mails (user_id, kind, created_at);
CREATE INDEX mails_created_at_idx ON mails (created_at);

-- When the owner was told that the token will end. It stands here and not only in the outbox, which is purged.
ALTER TABLE access_tokens ADD COLUMN expiry_announced_at timestamptz;
-- How long before its end a token is announced depends on how long it lasts. No release has the table yet: a plain build
-- locks nobody out for long.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX access_tokens_unannounced_idx ON access_tokens (duration_hours, expires_at)
WHERE ended_at IS NULL AND expires_at IS NOT NULL AND expiry_announced_at IS NULL;

GRANT SELECT, INSERT, DELETE, UPDATE (state, attempts, due_at, outcome) ON mails TO zenzefi_app;
