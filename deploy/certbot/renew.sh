#!/bin/sh
# Issues the certificate, or renews it when two thirds of its life are over; else does nothing. --force renews it now.
# The variables are those of deploy/nginx/README.md. Certbot's own rule, 30 days before the end, is right for a life of
# 90 days only, and Let's Encrypt's become shorter.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
: "${SERVER_NAME:?certbot/renew.sh: SERVER_NAME is not set: the public host name, or several}"
certbot_dir=${CERTBOT_DIR:-/etc/letsencrypt}
export CERTIFICATE="${CERTIFICATE:-/etc/zenzefi/certificates/zenzefi.pem}"
lineage=zenzefi
live=$certbot_dir/live/$lineage/fullchain.pem

# seconds_of startdate|enddate: as a number. ISO 8601 is a form that GNU's and BusyBox's `date` both read.
seconds_of() {
    text=$(openssl x509 -in "$live" -noout -dateopt iso_8601 "-$1")
    text=${text#*=}
    date -u -d "${text%Z}" +%s
}

# Why a certificate has to be got now, or nothing.
reason() {
    if [ ! -e "$live" ]; then
        echo "there is none"
        return
    fi
    for name in $SERVER_NAME; do
        if ! openssl x509 -in "$live" -noout -checkhost "$name" | grep -q 'does match'; then
            echo "it does not hold for $name"
            return
        fi
    done
    begin=$(seconds_of startdate)
    end=$(seconds_of enddate)
    if [ $((3 * ($(date +%s) - begin))) -ge $((2 * (end - begin))) ]; then
        echo "two thirds of its life are over"
    fi
}

why=$(reason)
[ "${1:-}" != --force ] || why="it was asked for"
if [ -z "$why" ]; then
    # Certbot does not fail when its hook does, for want of room for example.
    cat "$(dirname "$live")/privkey.pem" "$live" | cmp -s - "$CERTIFICATE" ||
        RENEWED_LINEAGE=$(dirname "$live") sh "$here/install.sh"
    exit 0
fi
echo "certbot/renew.sh: getting a certificate for $SERVER_NAME: $why." >&2

set -- certonly --non-interactive --agree-tos --webroot --webroot-path "${ACME_WEBROOT:-/var/www/acme}" \
    --cert-name "$lineage" --key-type ecdsa --elliptic-curve secp256r1 --force-renewal --renew-with-new-domains \
    --config-dir "$certbot_dir" --work-dir "$certbot_dir/work" --logs-dir "$certbot_dir/logs" --max-log-backups 30 \
    --deploy-hook "sh '$here/install.sh'"
if [ -n "${ACME_EMAIL:-}" ]; then
    set -- "$@" --email "$ACME_EMAIL"
else
    set -- "$@" --register-unsafely-without-email
fi
[ -z "${ACME_SERVER:-}" ] || set -- "$@" --server "$ACME_SERVER"
for name in $SERVER_NAME; do
    set -- "$@" --domain "$name"
done
exec certbot "$@"
