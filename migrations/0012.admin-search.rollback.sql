DROP INDEX audit_log_resource_type_idx;
DROP INDEX access_tokens_all_open_idx;
DROP INDEX users_banned_idx;
DROP INDEX users_username_prefix_idx;
DROP INDEX users_email_prefix_idx;
