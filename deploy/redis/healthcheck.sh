#!/bin/sh
# Healthy once Valkey takes requests: while it loads its data it answers LOADING.
set -eu
REDISCLI_AUTH=$(cat /run/secrets/redis_password)
export REDISCLI_AUTH
[ "$(valkey-cli ping)" = PONG ]
