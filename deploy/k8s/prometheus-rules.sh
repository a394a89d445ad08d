#!/usr/bin/env bash
# Prints deploy/prometheus/rules/ as one PrometheusRule, so that Kubernetes and compose raise the same alarms:
#
#   deploy/k8s/prometheus-rules.sh | kubectl apply --server-side --namespace zenzefi --filename -
set -euo pipefail
cd "$(dirname "$0")/../prometheus/rules"

cat <<'HEAD'
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: zenzefi
  labels:
    app.kubernetes.io/part-of: zenzefi
spec:
  groups:
HEAD
# Each file is a list of groups below one word.
sed --separate --expression '/^groups:$/d' --expression 's/^./  &/' -- *.yml
