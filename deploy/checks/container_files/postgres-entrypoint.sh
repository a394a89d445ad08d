#!/bin/bash
# Stands in for docker-entrypoint.sh of PostgreSQL's image: makes the data, runs what is in docker-entrypoint-initdb.d
# (twice, for ours may be run again at any time), then becomes the server.
set -euo pipefail

# shellcheck disable=SC2086  # options, separated by spaces, as in the image
initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth-local=trust --auth-host=scram-sha-256 \
    $POSTGRES_INITDB_ARGS
printf 'host all all all scram-sha-256\n' >> "$PGDATA/pg_hba.conf"
pg_ctl --options="-c listen_addresses=''" --wait start
for script in /docker-entrypoint-initdb.d/*.sh /docker-entrypoint-initdb.d/*.sh; do
    "$script"
done
pg_ctl --mode=fast --wait stop
# The image's configuration listens everywhere.
exec "$@" --listen_addresses='*'
