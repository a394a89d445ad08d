#!/bin/sh
# Writes secrets/, which docker-compose.yml reads: a random value into each file that needs one, and an empty file for
# each secret of something that may be unused. What exists is left as it is, so that it can be run at any time.
#
#   deploy/docker/make-secrets.sh [FOLDER]
#
# The folder lets in nobody but its owner. The files in it are readable by all, because Docker mounts each of them by
# itself, and the users of the containers have to read them.
set -eu
folder=${1:-secrets}
umask 077
mkdir -p "$folder"
chmod 700 "$folder"

# NAME, the value on standard input. Written beside and renamed: a file is there as a whole or not at all.
write() {
    cat > "$folder/.new"
    chmod 444 "$folder/.new"
    mv "$folder/.new" "$folder/$1"
    echo "made $folder/$1"
}

for name in secret_key postgres_superuser_password postgres_owner_password postgres_password \
    postgres_monitor_password redis_password grafana_admin_password; do
    [ -e "$folder/$name" ] || openssl rand -hex 32 | write "$name"
done

for name in s3_access_key s3_secret_key backup_copy_s3_access_key backup_copy_s3_secret_key backup_identity \
    smtp_password payment_webhook_secret payment_webhook_secret_previous yookassa_secret_key stripe_secret_key \
    tailscale_authkey alertmanager_smtp_password alertmanager_slack_url alertmanager_telegram_token \
    alertmanager_deadman_url loadtest_people; do
    [ -e "$folder/$name" ] || write "$name" < /dev/null
done

# These two repeat others in the form that their readers want, and are made anew each time.
printf '{"redis://redis:6379": "%s"}\n' "$(cat "$folder/redis_password")" > "$folder/.expected"
cmp -s "$folder/.expected" "$folder/redis_exporter_passwords" || write redis_exporter_passwords < "$folder/.expected"
cat > "$folder/.expected" <<END
{"identities": [{"name": "zenzefi", "credentials": [{"accessKey": "$(cat "$folder/s3_access_key")",
"secretKey": "$(cat "$folder/s3_secret_key")"}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
END
cmp -s "$folder/.expected" "$folder/seaweedfs_identities" || write seaweedfs_identities < "$folder/.expected"
rm -f "$folder/.expected"
