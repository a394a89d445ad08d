"""The name of every background job, once, and which queue it waits in."""

from enum import StrEnum
from typing import Final


class Queue(StrEnum):
    """A queue of its own workers: what runs for hours must not delay what runs each minute, nor its second try."""

    DEFAULT = "default"
    HEAVY = "heavy"


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
    MAKE_PARTITIONS = "make_partitions"
    TAKE_SNAPSHOT = "take_snapshot"
    ROLL_UP_USAGE = "roll_up_usage"
    DROP_OLD_USAGE = "drop_old_usage"
    PURGE_SESSIONS = "purge_sessions"
    SEND_MAIL = "send_mail"
    ANNOUNCE_EXPIRING_TOKENS = "announce_expiring_tokens"
    PURGE_MAIL = "purge_mail"

    INSPECT_LEDGER = "inspect_ledger"
    VERIFY_AUDIT_LOG = "verify_audit_log"
    ARCHIVE_AUDIT_LOG = "archive_audit_log"
    BACK_UP_DATABASE = "back_up_database"
    VERIFY_BACKUP = "verify_backup"
    PRUNE_BACKUPS = "prune_backups"


_HEAVY: Final = frozenset(
    {
        Job.INSPECT_LEDGER,
        Job.VERIFY_AUDIT_LOG,
        Job.ARCHIVE_AUDIT_LOG,
        Job.BACK_UP_DATABASE,
        Job.VERIFY_BACKUP,
        Job.PRUNE_BACKUPS,
    }
)


def queue_of(job: Job) -> Queue:
    """The queue that a job waits in."""
    return Queue.HEAVY if job in _HEAVY else Queue.DEFAULT
