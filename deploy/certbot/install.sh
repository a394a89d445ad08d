#!/bin/sh
# Certbot's deploy hook: puts key and chain into the one file that nginx reads, all at once.
set -eu

: "${RENEWED_LINEAGE:?certbot/install.sh: RENEWED_LINEAGE is not set; certbot sets it}"
target=${CERTIFICATE:-/etc/zenzefi/certificates/zenzefi.pem}

# nginx runs as another user and reads it by its group.
umask 027
cat "$RENEWED_LINEAGE/privkey.pem" "$RENEWED_LINEAGE/fullchain.pem" >"$target.new"
mv "$target.new" "$target"
echo "certbot/install.sh: $target is new." >&2
