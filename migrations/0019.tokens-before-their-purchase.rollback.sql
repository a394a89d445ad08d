ALTER TABLE access_tokens ALTER CONSTRAINT access_tokens_purchase_fkey NOT DEFERRABLE;
