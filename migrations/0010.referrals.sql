-- Referral bonuses: held when the referred user's first large purchase is made, paid or taken back once it is settled.
-- depends: 0009.bundles

-- One for each referred user, ever: whose first purchase it was, and what is held now or was paid in the end.
CREATE TABLE referral_bonuses (
    referred_user_id uuid PRIMARY KEY,
    referrer_id uuid NOT NULL,
    purchase_transaction_id uuid NOT NULL,
    amount numeric(14, 2) NOT NULL,
    state text NOT NULL,
    created_at timestamptz NOT NULL,
    settled_at timestamptz,
    CONSTRAINT referral_bonuses_purchase_key UNIQUE (purchase_transaction_id),
    CONSTRAINT referral_bonuses_referred_fkey FOREIGN KEY (referred_user_id) REFERENCES users (id),
    CONSTRAINT referral_bonuses_referrer_fkey FOREIGN KEY (referrer_id) REFERENCES users (id),
    CONSTRAINT referral_bonuses_purchase_fkey
    FOREIGN KEY (purchase_transaction_id) REFERENCES ledger_transactions (id),
    CONSTRAINT referral_bonuses_not_to_self CHECK (referrer_id <> referred_user_id),
    CONSTRAINT referral_bonuses_state_check CHECK (
        (state = 'held' AND settled_at IS NULL AND amount > 0)
        OR (state = 'paid' AND settled_at IS NOT NULL AND amount > 0)
        OR (state = 'taken_back' AND settled_at IS NOT NULL AND amount = 0)
    )
);
CREATE INDEX referral_bonuses_referrer_idx ON referral_bonuses (referrer_id, state) INCLUDE (amount);
CREATE INDEX referral_bonuses_held_idx ON referral_bonuses (referred_user_id) WHERE state = 'held';

-- The tokens of one purchase. No release has the table yet: a plain build locks nobody out for long.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX access_tokens_purchase_idx ON access_tokens (purchase_transaction_id);

-- Who brought a user is said once, at registration, and names somebody who was there before. So no ring can come to be,
-- as long as nobody rewrites it: the application may not.
REVOKE UPDATE ON users FROM zenzefi_app;
GRANT UPDATE (password_hash, full_name, is_active, is_superuser, updated_at) ON users TO zenzefi_app;
GRANT SELECT, INSERT, UPDATE (amount, state, settled_at) ON referral_bonuses TO zenzefi_app;
