-- Access tokens: bought, activated by their first use, ended by time, refund or revocation.
-- depends: 0004.wallet

CREATE TABLE access_tokens (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    token_hash bytea NOT NULL,
    token_hint text NOT NULL,
    duration_hours integer NOT NULL,
    scope text NOT NULL,
    price numeric(14, 2) NOT NULL,
    purchase_transaction_id uuid NOT NULL,
    refund_transaction_id uuid,
    created_at timestamptz NOT NULL,
    activated_at timestamptz,
    expires_at timestamptz,
    ended_at timestamptz,
    end_reason text,
    rotated_at timestamptz,
    device_released_at timestamptz,
    CONSTRAINT access_tokens_token_hash_key UNIQUE (token_hash),
    CONSTRAINT access_tokens_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id),
    CONSTRAINT access_tokens_purchase_fkey FOREIGN KEY (purchase_transaction_id) REFERENCES ledger_transactions (id),
    CONSTRAINT access_tokens_refund_fkey FOREIGN KEY (refund_transaction_id) REFERENCES ledger_transactions (id),
    CONSTRAINT access_tokens_hash_is_sha256 CHECK (octet_length(token_hash) = 32),
    CONSTRAINT access_tokens_duration_check CHECK (duration_hours > 0),
    CONSTRAINT access_tokens_price_check CHECK (price >= 0),
    CONSTRAINT access_tokens_clock_check CHECK (
        (activated_at IS NULL AND expires_at IS NULL)
        OR expires_at = activated_at + duration_hours * interval '1 hour'
    ),
    CONSTRAINT access_tokens_end_check CHECK (
        (ended_at IS NULL) = (end_reason IS NULL) AND end_reason IN ('refunded', 'revoked', 'expired')
    ),
    CONSTRAINT access_tokens_refund_check CHECK (
        refund_transaction_id IS NULL OR (activated_at IS NULL AND end_reason IS NOT DISTINCT FROM 'refunded')
    )
);
CREATE INDEX access_tokens_user_idx ON access_tokens (user_id, id DESC);
CREATE INDEX access_tokens_open_idx ON access_tokens (user_id, id DESC) WHERE ended_at IS NULL;
CREATE INDEX access_tokens_expiry_idx ON access_tokens (expires_at) WHERE ended_at IS NULL;

GRANT SELECT, INSERT, UPDATE ON access_tokens TO zenzefi_app;
