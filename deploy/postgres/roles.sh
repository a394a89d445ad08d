#!/bin/bash
# The database and its logins. PostgreSQL's image runs this once, at its first start with an empty volume; after a change
# of a password in secrets/ run it again: docker compose exec postgres /docker-entrypoint-initdb.d/roles.sh
#
#   the owner        makes the schema, backs up, and restores into databases of its own; no superuser
#   the application  owns nothing: the migrations let it add to the ledger and the audit log, and not alter them
#   zenzefi_monitor  reads statistics, for postgres-exporter
set -euo pipefail
shopt -s inherit_errexit

if [ "$ZENZEFI_OWNER" = "$ZENZEFI_APPLICATION" ]; then
    echo "roles.sh: POSTGRES_USER and POSTGRES_OWNER_USER are the same; the application must not own the ledger" >&2
    exit 1
fi

secret() {
    local value
    value=$(<"/run/secrets/$1")
    printf '%s' "${value:?roles.sh: the secret $1 is empty}"
}

# psql reads the passwords from its environment: everybody may read a process's arguments.
OWNER_PASSWORD=$(secret postgres_owner_password)
APPLICATION_PASSWORD=$(secret postgres_password)
MONITOR_PASSWORD=$(secret postgres_monitor_password)
export OWNER_PASSWORD APPLICATION_PASSWORD MONITOR_PASSWORD

psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv database ZENZEFI_DATABASE
\getenv owner ZENZEFI_OWNER
\getenv owner_password OWNER_PASSWORD
\getenv application ZENZEFI_APPLICATION
\getenv application_password APPLICATION_PASSWORD
\getenv monitor_password MONITOR_PASSWORD

-- The statements hold passwords.
SET log_min_error_statement = panic;
SET log_min_duration_statement = -1;

SELECT format('CREATE ROLE %I', name)
FROM unnest(ARRAY[:'owner', :'application', 'zenzefi_monitor']) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec
ALTER ROLE :"owner" LOGIN NOSUPERUSER CREATEDB CREATEROLE PASSWORD :'owner_password';
ALTER ROLE :"application" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'application_password';
ALTER ROLE zenzefi_monitor LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'monitor_password';
GRANT pg_monitor TO zenzefi_monitor;
-- Restoring ends the sessions of the database that it replaces.
GRANT pg_signal_backend TO :"owner";

SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database')
\gexec
-- Everybody else has no business in it.
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE :"database" TO :"application";
GRANT CONNECT ON DATABASE :"database" TO zenzefi_monitor;
SQL
