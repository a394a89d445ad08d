#!/bin/sh
# watch.sh PID: has the nginx master PID reload when the file of the certificate is another, until that process is gone.
# nginx reads a certificate when it starts and when it reloads, and certbot is in another container.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
run_dir=${NGINX_RUN_DIR:-/tmp/nginx}
certificate=${NGINX_CERTIFICATE:-/etc/zenzefi/certificates/zenzefi.pem}
master=$1

fingerprint() {
    { sha256sum <"$certificate"; } 2>/dev/null || echo none
}

served=$(fingerprint)
while sleep "${NGINX_WATCH_INTERVAL:-30}" && kill -0 "$master" 2>/dev/null; do
    present=$(fingerprint)
    [ "$present" != "$served" ] || continue
    # What cannot be served is left alone until it changes again: the old one is still in nginx's memory.
    served=$present
    if sh "$here/render.sh" && nginx -t -q -e stderr -p "$run_dir" -c "$run_dir/conf/nginx.conf"; then
        kill -HUP "$master"
        echo "nginx/watch.sh: $certificate has changed; nginx reloads." >&2
    else
        echo "nginx/watch.sh: $certificate has changed, and nginx cannot use it; it goes on with the one before." >&2
    fi
done
