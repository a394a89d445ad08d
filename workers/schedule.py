"""When each job runs, in UTC: every line on one screen.

Each is idempotent and may run twice. A run that fails or is lost does not matter: the next one does its work, too.
"""

from arq.cron import CronJob

from workers.jobs import access, accounts, audit, database, gateway, health, wallet
from workers.scheduling import daily, every, hourly, minutely
from zenzefi.jobs import Job
from zenzefi.settings import Settings


def schedule(settings: Settings) -> list[CronJob]:
    """Return the cron jobs; the odd seconds and minutes keep them from starting together."""
    return [
        every(settings.health_check_interval_s, Job.REFRESH_HEALTH, health.refresh_health),
        minutely(Job.CLOSE_IDLE_SESSIONS, gateway.close_idle_sessions, second=5),
        minutely(Job.END_EXPIRED_TOKENS, access.end_expired_tokens, second=25),
        minutely(Job.HEAL_PAYMENTS, wallet.heal_payments, second=45),
        minutely(Job.SEAL_AUDIT_LOG, audit.seal_audit_log, second=35),
        hourly(Job.PAY_REFERRAL_BONUSES, access.pay_referral_bonuses, minute=12),
        hourly(Job.PURGE_IDEMPOTENCY_KEYS, database.purge_idempotency_keys, minute=7),
        hourly(Job.PURGE_EXPIRED_LOGINS, accounts.purge_expired_logins, minute=22),
        daily(Job.INSPECT_LEDGER, wallet.inspect_ledger, hour=2, minute=52),
        daily(Job.MAKE_PARTITIONS, database.make_partitions, hour=3, minute=37, run_at_startup=True),
    ]
