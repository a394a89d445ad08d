-- Bundles: several tokens sold at once, at a discount.
-- depends: 0008.payments

-- A bundle says what it holds and by how much it is cheaper; what it costs follows from the prices in the settings.
CREATE TABLE bundles (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    description text NOT NULL,
    token_count integer NOT NULL,
    duration_hours integer NOT NULL,
    scope text NOT NULL,
    discount_percent numeric(5, 2) NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz,
    CONSTRAINT bundles_token_count_check CHECK (token_count BETWEEN 1 AND 100),
    CONSTRAINT bundles_duration_check CHECK (duration_hours > 0),
    CONSTRAINT bundles_discount_check CHECK (discount_percent >= 0 AND discount_percent < 100)
);
-- A name is free again once its bundle is deleted.
CREATE UNIQUE INDEX bundles_name_key ON bundles (lower(name)) WHERE deleted_at IS NULL;
CREATE INDEX bundles_offered_idx ON bundles (id) WHERE deleted_at IS NULL;

INSERT INTO bundles
(id, name, description, token_count, duration_hours, scope, discount_percent, created_at, updated_at)
VALUES
(
    '00000000-0000-7000-8000-000000000101', 'Starter Pack', 'Five days of full access, each on the day you choose',
    5, 24, 'full', 10, now(), now()
),
(
    '00000000-0000-7000-8000-000000000102', 'Pro Bundle', 'Ten days of full access, each on the day you choose',
    10, 24, 'full', 15, now(), now()
),
(
    '00000000-0000-7000-8000-000000000103', 'Ultimate Package', 'Twenty weeks of full access',
    20, 168, 'full', 20, now(), now()
),
(
    '00000000-0000-7000-8000-000000000104', 'Certificates Bundle', 'Ten days of access to the certificates alone',
    10, 24, 'certificates_only', 15, now(), now()
);

GRANT SELECT, INSERT, UPDATE ON bundles TO zenzefi_app;
