-- Payments: what a provider was asked to collect, and how it ended. A payment is credited in the transaction that makes
-- it succeeded, and never leaves that state.
-- depends: 0007.partition-upkeep

-- The row is there before the provider hears of the payment. opening_until is the lease of the one request that asks the
-- provider for the page to pay on; next_check_at is when the provider is asked how the payment stands.
CREATE TABLE payments (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    provider text NOT NULL,
    provider_payment_id text,
    status text NOT NULL,
    amount_znc numeric(14, 2) NOT NULL,
    amount numeric(14, 2) NOT NULL,
    currency text NOT NULL,
    return_url text NOT NULL,
    payment_url text,
    ledger_transaction_id uuid,
    opening_until timestamptz,
    next_check_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT payments_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id),
    CONSTRAINT payments_provider_payment_id_key UNIQUE (provider, provider_payment_id),
    CONSTRAINT payments_ledger_transaction_id_key UNIQUE (ledger_transaction_id),
    CONSTRAINT payments_status_check CHECK (status IN ('pending', 'succeeded', 'canceled', 'expired')),
    CONSTRAINT payments_credited_when_succeeded CHECK ((status = 'succeeded') = (ledger_transaction_id IS NOT NULL)),
    CONSTRAINT payments_amounts_above_zero CHECK (amount_znc > 0 AND amount > 0)
);
CREATE INDEX payments_due_idx ON payments (provider, next_check_at) WHERE status = 'pending';

-- Whatever the application does, a payment that was credited stays so, with the one ledger transaction that did it.
CREATE FUNCTION refuse_unsettling() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'payment % has been credited', OLD.id
        USING ERRCODE = 'check_violation', CONSTRAINT = 'payments_credited_once';
END
$$;
CREATE TRIGGER payments_credited_once
BEFORE UPDATE OF status, ledger_transaction_id ON payments
FOR EACH ROW WHEN (OLD.status = 'succeeded') EXECUTE FUNCTION refuse_unsettling();

CREATE TABLE payment_events (
    id uuid PRIMARY KEY,
    payment_id uuid NOT NULL,
    event text NOT NULL,
    at timestamptz NOT NULL,
    CONSTRAINT payment_events_payment_id_fkey FOREIGN KEY (payment_id) REFERENCES payments (id),
    CONSTRAINT payment_events_event_check CHECK (
        event IN ('created', 'opened', 'succeeded', 'canceled', 'expired')
    )
);
CREATE INDEX payment_events_payment_idx ON payment_events (payment_id, at, id);

-- Whom a payment belongs to and what it is worth cannot be changed; its timeline only grows.
GRANT SELECT, INSERT ON payments, payment_events TO zenzefi_app;
GRANT UPDATE (provider_payment_id, status, payment_url, ledger_transaction_id, opening_until, next_check_at)
ON payments TO zenzefi_app;
