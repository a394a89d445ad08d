"""The name of every background job, once."""

from enum import StrEnum

# Each living worker keeps a key of this prefix in Redis; it expires soon after the worker's last heartbeat.
WORKER_KEY_PREFIX = "znz:worker:"


class Job(StrEnum):
    """A job that the workers run; the value is what travels through the queue."""

    REFRESH_HEALTH = "refresh_health"
    CLOSE_IDLE_SESSIONS = "close_idle_sessions"
    END_EXPIRED_TOKENS = "end_expired_tokens"
    PAY_REFERRAL_BONUSES = "pay_referral_bonuses"
    HEAL_PAYMENTS = "heal_payments"
    PURGE_IDEMPOTENCY_KEYS = "purge_idempotency_keys"
    PURGE_EXPIRED_LOGINS = "purge_expired_logins"
    SEAL_AUDIT_LOG = "seal_audit_log"
    INSPECT_LEDGER = "inspect_ledger"
    MAKE_PARTITIONS = "make_partitions"
