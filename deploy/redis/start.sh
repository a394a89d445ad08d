#!/bin/sh
# Starts Valkey with the password of its secret, which no list of processes shows.
set -eu
umask 077
password=$(cat /run/secrets/redis_password)
# Without one everybody would be let in.
: "${password:?redis/start.sh: the secret redis_password is empty}"
{
    cat /etc/zenzefi/redis/valkey.conf
    printf 'requirepass "%s"\n' "$password"
} > /tmp/valkey.conf
exec valkey-server /tmp/valkey.conf
