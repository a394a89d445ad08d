"""Gauges of the service's state that no process knows by itself: jobs find it out, and each worker shows it.

All workers show the same, each with its own label ``process``: use max() over them. None is shown before a worker has
read what the jobs have found (zenzefi.health.gauges); what never happened is the timestamp 0.
"""

from typing import Final

from zenzefi.infra.instruments import REGISTRY
from zenzefi.infra.metrics import Label

FACTS_READ: Final = REGISTRY.gauge(
    "zenzefi_facts_read_timestamp_seconds",
    "When this worker last read from the database what the jobs have found; an older time says that it cannot",
)
SNAPSHOT_TAKEN: Final = REGISTRY.gauge(
    "zenzefi_snapshot_timestamp_seconds",
    "When the job take_snapshot last looked; while it is old, so are tokens, sessions, users, payments and sizes",
)
DEPENDENCY_UP: Final = REGISTRY.gauge(
    "zenzefi_dependency_up",
    "1 if a worker found it to answer: each 10 s, the upstream each HEALTH_CHECK_INTERVAL; else 0",
    Label("dependency", ("database", "redis", "queue", "upstream")),
)

TOKENS: Final = REGISTRY.gauge(
    "zenzefi_tokens",
    "Tokens that can be used: their clock runs (active) or has not started (unused); an estimate above 50,000",
    Label("state", ("active", "unused")),
)
ACTIVE_SESSIONS: Final = REGISTRY.gauge(
    "zenzefi_active_sessions", "Sessions of use that are open; an estimate above 50,000"
)
ACTIVE_USERS: Final = REGISTRY.gauge(
    "zenzefi_active_users", "Users with an open session of use; an estimate above 10,000 sessions"
)
USERS: Final = REGISTRY.gauge("zenzefi_users", "Accounts, the banned ones included; an estimate above 50,000")

PAYMENTS_PENDING: Final = REGISTRY.gauge("zenzefi_payments_pending", "Payments that have not ended yet")
PAYMENTS_STUCK: Final = REGISTRY.gauge(
    "zenzefi_payments_stuck", "Pending payments whose check is 15 minutes late, or that are older than 8 days"
)
PAYMENT_OLDEST_AGE: Final = REGISTRY.gauge(
    "zenzefi_payment_oldest_pending_age_seconds", "Age of the oldest pending payment; 0 if there is none"
)

LEDGER_IMBALANCE: Final = REGISTRY.gauge(
    "zenzefi_ledger_imbalance_znc", "The sum of all postings at the last nightly look, which is 0"
)
LEDGER_FAULTS: Final = REGISTRY.gauge(
    "zenzefi_ledger_faults", "Places where a rule of the ledger did not hold at the last nightly look"
)
LEDGER_INSPECTED: Final = REGISTRY.gauge(
    "zenzefi_ledger_inspected_timestamp_seconds", "When the whole ledger was last looked at; 0 is never"
)

AUDIT_FAULTS: Final = REGISTRY.gauge(
    "zenzefi_audit_faults", "Places where the audit log's chain did not hold at the last verification"
)
AUDIT_VERIFIED: Final = REGISTRY.gauge(
    "zenzefi_audit_verified_timestamp_seconds", "When the audit log's chain was last verified; 0 is never"
)

BACKUP_LAST_SUCCESS: Final = REGISTRY.gauge(
    "zenzefi_backup_last_success_timestamp_seconds", "When the newest stored backup was made; 0 is never"
)
BACKUP_LAST_VERIFIED: Final = REGISTRY.gauge(
    "zenzefi_backup_last_verified_timestamp_seconds",
    "When the newest backup that a restore has proven was made; 0 is never",
)
BACKUP_SIZE: Final = REGISTRY.gauge("zenzefi_backup_last_size_bytes", "Size of the newest stored backup")
BACKUP_DURATION: Final = REGISTRY.gauge("zenzefi_backup_last_duration_seconds", "How long the newest backup took")
BACKUPS: Final = REGISTRY.gauge(
    "zenzefi_backups",
    "Stored backups: those whose verification failed, and the others",
    Label("state", ("sound", "failed")),
)

ROLLUP_LAG: Final = REGISTRY.gauge(
    "zenzefi_rollup_lag_seconds",
    "For how long the oldest usage has waited to be summed up by hour and day; 0 if none waits",
)
OUTBOX_PENDING: Final = REGISTRY.gauge("zenzefi_outbox_mails", "Mails in the outbox that are due")
OUTBOX_OLDEST_AGE: Final = REGISTRY.gauge(
    "zenzefi_outbox_oldest_age_seconds", "For how long the oldest mail of the outbox has been due; 0 if none is"
)

DATABASE_SIZE: Final = REGISTRY.gauge("zenzefi_database_size_bytes", "Size of the database on disk")
DATABASE_CONNECTIONS: Final = REGISTRY.gauge(
    "zenzefi_database_connections",
    "Connections that PostgreSQL has open to this database",
    Label("state", ("active", "idle", "idle_in_transaction")),
)
DATABASE_MAX_CONNECTIONS: Final = REGISTRY.gauge(
    "zenzefi_database_max_connections", "Connections that PostgreSQL takes at most"
)
DATABASE_LOCK_WAITS: Final = REGISTRY.gauge(
    "zenzefi_database_lock_waits", "Connections that wait for a lock of another one"
)
DATABASE_OLDEST_TRANSACTION: Final = REGISTRY.gauge(
    "zenzefi_database_oldest_transaction_age_seconds", "For how long the oldest open transaction has been open"
)
REDIS_MEMORY: Final = REGISTRY.gauge("zenzefi_redis_memory_bytes", "Memory that Redis has taken for its data")
REDIS_MAX_MEMORY: Final = REGISTRY.gauge(
    "zenzefi_redis_max_memory_bytes", "Memory that Redis may take: its maxmemory, or all of its machine's"
)
REDIS_CLIENTS: Final = REGISTRY.gauge("zenzefi_redis_clients", "Connections that Redis has open")
REDIS_MAX_CLIENTS: Final = REGISTRY.gauge("zenzefi_redis_max_clients", "Connections that Redis takes at most")
