#!/bin/sh
# The service: sees to the certificate twice a day, and again within the hour when that failed.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
# A shell that is a container's first process ignores what it does not trap; and it traps only between two commands, so
# that the waiting is left to a child. That one may have ended when the signal comes: then there is none to kill.
trap '[ -z "${!:-}" ] || kill "$!" 2>/dev/null || :; exit 0' TERM INT

while :; do
    # Let's Encrypt lets a name fail five times an hour.
    if sh "$here/renew.sh"; then pause=${ACME_INTERVAL:-43200}; else pause=${ACME_RETRY:-3600}; fi
    sleep "$pause" &
    wait "$!"
done
