-- People, their logins, and the refresh tokens of each login.
-- depends: 0001.roles-and-partitions

CREATE TABLE users (
    id uuid PRIMARY KEY,
    email text NOT NULL,
    username text NOT NULL,
    password_hash text NOT NULL,
    full_name text,
    is_active boolean NOT NULL DEFAULT true,
    is_superuser boolean NOT NULL DEFAULT false,
    referral_code text NOT NULL,
    referred_by uuid,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT users_email_is_normalised CHECK (email = lower(email)),
    CONSTRAINT users_referral_code_key UNIQUE (referral_code),
    CONSTRAINT users_referred_by_fkey FOREIGN KEY (referred_by) REFERENCES users (id),
    CONSTRAINT users_not_referred_by_self CHECK (referred_by <> id)
);
CREATE UNIQUE INDEX users_email_key ON users (email);
CREATE UNIQUE INDEX users_username_key ON users (lower(username));
CREATE INDEX users_referred_by_idx ON users (referred_by, id) WHERE referred_by IS NOT NULL;

-- A login is one family of refresh tokens, born of one password check.
CREATE TABLE logins (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    ip inet,
    user_agent text,
    created_at timestamptz NOT NULL,
    ended_at timestamptz,
    CONSTRAINT logins_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id)
);
CREATE INDEX logins_open_idx ON logins (user_id) WHERE ended_at IS NULL;

CREATE TABLE refresh_tokens (
    token_hash bytea PRIMARY KEY,
    login_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    CONSTRAINT refresh_tokens_hash_is_sha256 CHECK (octet_length(token_hash) = 32),
    CONSTRAINT refresh_tokens_login_id_fkey FOREIGN KEY (login_id) REFERENCES logins (id) ON DELETE CASCADE
);
CREATE INDEX refresh_tokens_login_id_idx ON refresh_tokens (login_id);
CREATE INDEX refresh_tokens_expires_at_idx ON refresh_tokens (expires_at);

GRANT SELECT, INSERT, UPDATE ON users TO zenzefi_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON logins, refresh_tokens TO zenzefi_app;
