REVOKE UPDATE ON users FROM zenzefi_app;
GRANT UPDATE ON users TO zenzefi_app;
DROP INDEX access_tokens_purchase_idx;
DROP TABLE referral_bonuses;
