"""Which jobs there are and when each runs: every line on one screen. Times are UTC unless a line names another zone.

Each is idempotent and may run twice. A run that fails or is lost does not matter: the next one does its work, too, and
what is due once a day is made up for when no worker was there. zenzefi/jobs.py says in which queue each waits.
"""

from collections.abc import Sequence
from datetime import time, timedelta
from typing import Final

from workers.jobs import access, accounts, audit, backups, database, gateway, health, mail, rollups, wallet
from workers.scheduling import Line, daily, every, hourly, minutely, only_if
from zenzefi.jobs import Job, Queue, queue_of
from zenzefi.settings import Settings

# What the metrics tell of the service's state is as old as this at most; a snapshot takes some tens of milliseconds.
SNAPSHOT_S: Final = 15.0
# A mail waits for half of this on the average. Without any, a look costs two queries by an index.
MAIL_S: Final = 5.0
# Enough for a terabyte at 25 MB/s.
HALF_A_DAY: Final = timedelta(hours=12)
# By then a backup of some hundred gigabytes was made and verified; while either runs, pruning waits, for some hours.
PRUNING_DELAY_H: Final = 9


def schedule(settings: Settings) -> list[Line]:
    """Return every job; the odd seconds and minutes keep them from starting together."""
    backup = settings.backup
    return [
        every(settings.health_check_interval_s, Job.REFRESH_HEALTH, health.refresh_health, at_start=True),
        every(SNAPSHOT_S, Job.TAKE_SNAPSHOT, health.take_snapshot, at_start=True),
        minutely(Job.CLOSE_IDLE_SESSIONS, gateway.close_idle_sessions, second=5),
        minutely(Job.END_EXPIRED_TOKENS, access.end_expired_tokens, second=25),
        minutely(Job.HEAL_PAYMENTS, wallet.heal_payments, second=45),
        minutely(Job.SEAL_AUDIT_LOG, audit.seal_audit_log, second=35),
        minutely(Job.ROLL_UP_USAGE, rollups.roll_up_usage, second=15),
        hourly(Job.PAY_REFERRAL_BONUSES, access.pay_referral_bonuses, minute=12),
        hourly(Job.PURGE_IDEMPOTENCY_KEYS, database.purge_idempotency_keys, minute=7),
        hourly(Job.PURGE_EXPIRED_LOGINS, accounts.purge_expired_logins, minute=22),
        only_if(settings.mail.host, every(MAIL_S, Job.SEND_MAIL, mail.send_mail)),
        only_if(settings.mail.host, every(300.0, Job.ANNOUNCE_EXPIRING_TOKENS, mail.announce_expiring_tokens)),
        daily(Job.PURGE_MAIL, mail.purge_mail, at=time(4, 17)),
        daily(Job.PURGE_SESSIONS, gateway.purge_sessions, at=time(4, 27)),
        daily(Job.DROP_OLD_USAGE, rollups.drop_old_usage, at=time(4, 7)),
        daily(Job.MAKE_PARTITIONS, database.make_partitions, at=time(3, 37), at_start=True),
        daily(Job.INSPECT_LEDGER, wallet.inspect_ledger, at=time(2, 52), timeout=timedelta(hours=2)),
        daily(Job.VERIFY_AUDIT_LOG, audit.verify_audit_log, at=time(2, 12), timeout=timedelta(hours=8)),
        daily(Job.ARCHIVE_AUDIT_LOG, audit.archive_audit_log, at=time(1, 32), timeout=HALF_A_DAY),
        only_if(
            backup.recipients and settings.s3.bucket,
            daily(
                Job.BACK_UP_DATABASE, backups.back_up_database, at=backup.at, zone=backup.timezone, timeout=HALF_A_DAY
            ),
        ),
        only_if(
            backup.recipients and settings.s3.bucket,
            daily(
                Job.PRUNE_BACKUPS,
                backups.prune_backups,
                at=hours_after(backup.at, PRUNING_DELAY_H),
                zone=backup.timezone,
                timeout=timedelta(hours=2),
            ),
        ),
        # Each backup is verified as soon as it is made; this one tries what was missed, when no other run is likely.
        only_if(
            backup.identity and settings.s3.bucket,
            daily(Job.VERIFY_BACKUP, backups.verify_backup, at=time(13, 33), timeout=HALF_A_DAY),
        ),
    ]


def hours_after(instant: time, hours: int) -> time:
    """Return a time of day that is some hours later, perhaps on the next day."""
    return instant.replace(hour=(instant.hour + hours) % 24)


def lines_of(queue: Queue, lines: Sequence[Line]) -> list[Line]:
    """Those lines whose jobs wait in this queue."""
    return [line for line in lines if queue_of(line.job) is queue]
