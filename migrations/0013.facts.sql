-- What jobs found out last, one row a name: metrics show it, whichever worker did the job.
-- depends: 0012.admin-search

CREATE TABLE facts (
    name text PRIMARY KEY,
    document jsonb NOT NULL,
    at timestamptz NOT NULL
);

GRANT SELECT, INSERT, UPDATE ON facts TO zenzefi_app;
