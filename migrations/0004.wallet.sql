-- The double-entry ledger. A transaction's postings sum to 0; a wallet's balance is the sum of its postings.
-- depends: 0003.audit

-- System accounts keep no balance: each would be one hot row that every purchase waits for. Wallets do, and count
-- their entries: entry_no gives each wallet's history one exact order, whatever the clocks of the processes say.
CREATE TABLE ledger_accounts (
    id uuid PRIMARY KEY,
    kind text NOT NULL,
    code text,
    user_id uuid,
    balance numeric(14, 2),
    entry_count bigint,
    created_at timestamptz NOT NULL,
    CONSTRAINT ledger_accounts_code_key UNIQUE (code),
    CONSTRAINT ledger_accounts_user_id_key UNIQUE (user_id),
    CONSTRAINT ledger_accounts_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id),
    CONSTRAINT ledger_accounts_kind_check CHECK (
        (kind = 'wallet' AND user_id IS NOT NULL AND balance IS NOT NULL AND entry_count IS NOT NULL AND code IS NULL)
        OR (kind = 'system' AND code IS NOT NULL AND user_id IS NULL AND balance IS NULL AND entry_count IS NULL)
    ),
    CONSTRAINT ledger_accounts_balance_not_negative CHECK (balance >= 0)
);

INSERT INTO ledger_accounts (id, kind, code, created_at) VALUES
    ('00000000-0000-7000-8000-000000000001', 'system', 'deposits', now()),
    ('00000000-0000-7000-8000-000000000002', 'system', 'revenue', now()),
    ('00000000-0000-7000-8000-000000000003', 'system', 'adjustments', now()),
    ('00000000-0000-7000-8000-000000000004', 'system', 'bonuses', now());

CREATE TABLE ledger_transactions (
    id uuid PRIMARY KEY,
    transaction_type text NOT NULL,
    description text NOT NULL,
    payment_id uuid,
    created_at timestamptz NOT NULL,
    CONSTRAINT ledger_transactions_type_key UNIQUE (id, transaction_type),
    CONSTRAINT ledger_transactions_type_check CHECK (
        transaction_type IN ('deposit', 'purchase', 'refund', 'referral_bonus', 'adjustment')
    )
) PARTITION BY RANGE (id);
CREATE TABLE ledger_transactions_default PARTITION OF ledger_transactions DEFAULT;
SELECT create_month_partitions('ledger_transactions', now(), 3);

-- transaction_type stands here, too, so that one index serves a wallet's history filtered by it.
CREATE TABLE ledger_postings (
    transaction_id uuid NOT NULL,
    account_id uuid NOT NULL,
    transaction_type text NOT NULL,
    amount numeric(14, 2) NOT NULL,
    entry_no bigint,
    balance_after numeric(14, 2),
    PRIMARY KEY (transaction_id, account_id),
    CONSTRAINT ledger_postings_transaction_fkey
    FOREIGN KEY (transaction_id, transaction_type) REFERENCES ledger_transactions (id, transaction_type),
    CONSTRAINT ledger_postings_account_id_fkey FOREIGN KEY (account_id) REFERENCES ledger_accounts (id),
    CONSTRAINT ledger_postings_amount_not_zero CHECK (amount <> 0),
    CONSTRAINT ledger_postings_balance_after_not_negative CHECK (balance_after >= 0)
) PARTITION BY RANGE (transaction_id);
CREATE TABLE ledger_postings_default PARTITION OF ledger_postings DEFAULT;
CREATE INDEX ledger_postings_history_idx ON ledger_postings (account_id, entry_no DESC);
CREATE INDEX ledger_postings_type_idx ON ledger_postings (account_id, transaction_type, entry_no DESC);
SELECT create_month_partitions('ledger_postings', now(), 3);

CREATE FUNCTION check_transaction_is_balanced() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF (SELECT sum(amount) FROM ledger_postings WHERE transaction_id = NEW.transaction_id) <> 0 THEN
        RAISE EXCEPTION 'the postings of ledger transaction % do not sum to 0', NEW.transaction_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_postings_sum_to_zero';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER ledger_postings_sum_to_zero
AFTER INSERT ON ledger_postings
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION check_transaction_is_balanced();

-- The answer of each money request, sealed with a key that only the client's own Idempotency-Key completes.
CREATE TABLE idempotency_keys (
    user_id uuid NOT NULL,
    key_hash bytea NOT NULL,
    request_hash bytea NOT NULL,
    response_status smallint NOT NULL,
    sealed_response bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, key_hash),
    CONSTRAINT idempotency_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id)
);
CREATE INDEX idempotency_keys_created_at_idx ON idempotency_keys (created_at);

GRANT SELECT, INSERT ON ledger_transactions, ledger_postings, ledger_accounts TO zenzefi_app;
GRANT UPDATE (balance, entry_count) ON ledger_accounts TO zenzefi_app;
GRANT SELECT, INSERT, DELETE ON idempotency_keys TO zenzefi_app;
