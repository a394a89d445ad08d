-- What the lists of superusers are served by.
-- depends: 0007.partition-upkeep

-- No release has these tables yet, so none of them holds rows that a plain build would keep locked for long.

-- A search is a prefix of the e-mail address (stored in lower case) or of the username. The pattern operators compare
-- bytes whatever the database's collation is, and unlike LIKE they use the index in a plan made for any argument, too.
-- (Trigrams would find the middle of a name as well, but pg_trgm is an extension that not every installation has.)
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX users_email_prefix_idx ON users (email text_pattern_ops);
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX users_username_prefix_idx ON users (lower(username) text_pattern_ops);
-- Few are banned among many: without it a page of them would read nearly everybody.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX users_banned_idx ON users (id DESC) WHERE NOT is_active;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX access_tokens_all_open_idx ON access_tokens (id DESC) WHERE ended_at IS NULL;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX audit_log_resource_type_idx ON audit_log (resource_type, id DESC);
