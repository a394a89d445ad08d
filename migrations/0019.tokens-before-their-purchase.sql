-- Lets a purchase store its tokens before the debit, which locks the wallet: what they point to is looked for at COMMIT.
-- depends: 0018.default-partitions

ALTER TABLE access_tokens ALTER CONSTRAINT access_tokens_purchase_fkey DEFERRABLE INITIALLY DEFERRED;
