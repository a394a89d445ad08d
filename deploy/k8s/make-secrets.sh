#!/usr/bin/env bash
# Prints all Secrets of a new environment, for kubectl or for whatever keeps secrets in your repository:
#
#   S3_ACCESS_KEY=… S3_SECRET_KEY=… BACKUP_IDENTITY_FILE=backup-key.txt \
#       deploy/k8s/make-secrets.sh zenzefi zenzefi-data | kubectl apply --server-side --filename -
#
# Passwords and SECRET_KEY are made here, and are different each time: an environment that exists would not find its data
# again by new ones. README.md says how to replace a single one. SMTP_PASSWORD, YOOKASSA_SECRET_KEY, STRIPE_SECRET_KEY and
# PAYMENT_WEBHOOK_SECRET are for the components of these names.
set -euo pipefail

: "${2:?usage: make-secrets.sh NAMESPACE DATA_NAMESPACE}"
: "${S3_ACCESS_KEY:?is not set}" "${S3_SECRET_KEY:?is not set}" "${BACKUP_IDENTITY_FILE:?is not set}"
product=$1 data=$2

random() { od --address-radix=n --read-bytes=32 --format=x1 /dev/urandom | tr --delete ' \n'; }

# No secret stands on a command line, where every process could read it: each is read from a pipe.
secret() {
    local namespace=$1 name=$2
    shift 2
    kubectl create secret generic "$name" --namespace "$namespace" --dry-run=client --output yaml "$@"
    echo ---
}

login() {
    # By this label CloudNativePG hears of a new password at once.
    secret "$data" "$1" --type kubernetes.io/basic-auth --from-literal "username=$2" \
        --from-file password=<(printf %s "$3") | sed 's/^metadata:$/&\n  labels: {cnpg.io\/reload: "true"}/'
}

app_password=$(random) owner_password=$(random) valkey_password=$(random) queue_password=$(random)

secret "$product" zenzefi-app \
    --from-file secret_key=<(random) \
    --from-file postgres_password=<(printf %s "$app_password") \
    --from-file redis_password=<(printf %s "$valkey_password") \
    --from-file queue_redis_password=<(printf %s "$queue_password")
secret "$product" zenzefi-owner --from-file postgres_owner_password=<(printf %s "$owner_password")
secret "$product" zenzefi-storage \
    --from-file s3_access_key=<(printf %s "$S3_ACCESS_KEY") \
    --from-file s3_secret_key=<(printf %s "$S3_SECRET_KEY")
secret "$product" zenzefi-backup --from-file backup_identity="$BACKUP_IDENTITY_FILE"
if [[ -n ${SMTP_PASSWORD:-} ]]; then
    secret "$product" zenzefi-mail --from-file smtp_password=<(printf %s "$SMTP_PASSWORD")
fi
if [[ -n ${YOOKASSA_SECRET_KEY:-} ]]; then
    secret "$product" zenzefi-payments --from-file yookassa_secret_key=<(printf %s "$YOOKASSA_SECRET_KEY")
elif [[ -n ${STRIPE_SECRET_KEY:-} ]]; then
    secret "$product" zenzefi-payments \
        --from-file stripe_secret_key=<(printf %s "$STRIPE_SECRET_KEY") \
        --from-file payment_webhook_secret=<(printf %s "${PAYMENT_WEBHOOK_SECRET:?is not set}")
fi

login postgres-owner zenzefi_owner "$owner_password"
login postgres-app zenzefi "$app_password"
secret "$data" valkey --from-file password=<(printf %s "$valkey_password")
secret "$data" valkey-queue --from-file password.conf=<(printf 'requirepass %s\n' "$queue_password")
