#!/bin/sh
# Runs a command of zenzefi as root's helper: as the user zenzefi, with the settings and the secrets that the services
# have. Install it as /usr/local/sbin/zenzefi.
#
#   zenzefi doctor --production
#   zenzefi create-superuser --email you@example.com --username you
set -eu

configuration=/etc/zenzefi
io=--pipe
if [ -t 0 ] && [ -t 1 ]; then io=--pty; fi

# systemd gives each secret to the command alone, in a folder that nobody else can enter.
# shellcheck disable=SC2016  # for the shell in there
set -- /bin/sh -c '
    for file in "$CREDENTIALS_DIRECTORY"/*; do
        [ ! -s "$file" ] || export "$(basename "$file" | tr "[:lower:]" "[:upper:]")_FILE=$file"
    done
    exec /opt/zenzefi/current/.venv/bin/python -m zenzefi "$@"' zenzefi "$@"
for file in "$configuration"/secrets/*; do
    set -- "--property=LoadCredential=$(basename "$file"):$file" "$@"
done
exec systemd-run "$io" --quiet --wait --collect --uid=zenzefi --gid=zenzefi --working-directory=/ \
    --setenv=PYTHONSAFEPATH=1 --setenv=PYTHONDONTWRITEBYTECODE=1 \
    --property="EnvironmentFile=$configuration/zenzefi.env" --property=NoNewPrivileges=yes \
    --property=ProtectSystem=strict --property=ProtectHome=yes --property=PrivateTmp=yes "$@"
