#!/bin/sh
# Runs nginx in the foreground, and the watch over its certificate beside it.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
run_dir=${NGINX_RUN_DIR:-/tmp/nginx}

sh "$here/render.sh"
# This shell becomes nginx's master, so that its number is where the watch sends the signal.
sh "$here/watch.sh" $$ &
exec nginx -e stderr -p "$run_dir" -c "$run_dir/conf/nginx.conf" -g 'daemon off;'
