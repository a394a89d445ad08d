DROP INDEX access_tokens_unannounced_idx;
ALTER TABLE access_tokens DROP COLUMN expiry_announced_at;
DROP TABLE mails;
