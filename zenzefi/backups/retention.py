"""Which backups are kept: a rule without I/O, so that it can be tried on years of nights in a second."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from zenzefi.upkeep_settings import BackupSettings

# The clock of a database that moved to another machine may differ by so much, and backups of today are still of today.
CLOCK_TOLERANCE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the rule looks at of a backup. One that was not verified yet is neither verified nor failed."""

    backup_id: str
    made_at: datetime
    is_verified: bool
    is_failed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How much is kept; days, weeks and months are those of ``timezone``."""

    keep_days: int
    keep_daily: int
    keep_weekly: int
    keep_monthly: int
    keep_verified: int
    timezone: ZoneInfo

    @classmethod
    def of(cls, settings: BackupSettings) -> "Policy":
        """The policy that the settings ask for."""
        return cls(
            keep_days=settings.keep_days,
            keep_daily=settings.keep_daily,
            keep_weekly=settings.keep_weekly,
            keep_monthly=settings.keep_monthly,
            keep_verified=settings.keep_verified,
            timezone=settings.timezone,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What goes, the oldest first, and why each of the others stays. When ``frozen`` says why, nothing goes."""

    prune: tuple[str, ...]
    keep: dict[str, str]
    frozen: str | None = None


def decide(entries: Iterable[Entry], *, policy: Policy, now: datetime) -> Verdict:
    """Tell what may be deleted.

    Nothing is, while any backup is dated in the future (then some clock is wrong, and nobody can tell how old the
    others are), or while none is verified (then nobody can tell which of them are of any use). The newest verified
    backup always stays, and so do the newest ``keep_verified`` verified ones, and those newer ones that may still turn
    out to be good. Failed ones are kept for ``keep_days``, for somebody to look into, and stand in for nothing.
    """
    newest_first = sorted(entries, key=lambda entry: (entry.made_at, entry.backup_id), reverse=True)
    verified = [entry for entry in newest_first if entry.is_verified]
    if frozen := _reason_to_freeze(newest_first, verified, now):
        return Verdict(prune=(), keep={entry.backup_id: "frozen" for entry in newest_first}, frozen=frozen)

    keep: dict[str, str] = {}

    def mark(kept: Iterable[Entry], reason: str) -> None:
        for entry in kept:
            keep.setdefault(entry.backup_id, reason)

    mark(verified[:1], "the newest verified")
    mark(verified[: policy.keep_verified], f"one of the {policy.keep_verified} newest verified")
    mark(takewhile(lambda entry: not entry.is_verified, _usable(newest_first)), "newer than any that is verified")
    least = now - timedelta(days=policy.keep_days)
    mark((entry for entry in newest_first if entry.made_at >= least), f"not older than {policy.keep_days} days")
    mark(_last_of_each(newest_first, policy.keep_daily, _day_in(policy.timezone)), "the last of its day")
    mark(_last_of_each(newest_first, policy.keep_weekly, _week_in(policy.timezone)), "the last of its week")
    mark(_last_of_each(newest_first, policy.keep_monthly, _month_in(policy.timezone)), "the last of its month")
    gone = tuple(entry.backup_id for entry in reversed(newest_first) if entry.backup_id not in keep)
    return Verdict(prune=gone, keep=keep)


def _reason_to_freeze(newest_first: Sequence[Entry], verified: Sequence[Entry], now: datetime) -> str | None:
    if newest_first and newest_first[0].made_at > now + CLOCK_TOLERANCE:
        newest, dated = newest_first[0], newest_first[0].made_at.isoformat(timespec="seconds")
        at = now.isoformat(timespec="seconds")
        return f"the backup {newest.backup_id} is dated {dated}, and by the database's clock it is {at}"
    if newest_first and not verified:
        return "no backup is verified"
    return None


def _usable(entries: Iterable[Entry]) -> Iterator[Entry]:
    return (entry for entry in entries if not entry.is_failed)


def _last_of_each(newest_first: Sequence[Entry], count: int, period_of: Callable[[datetime], object]) -> list[Entry]:
    """The newest backup, a verified one where there is one, of each of the last ``count`` periods that have any."""
    best: dict[object, Entry] = {}
    for entry in _usable(newest_first):
        period = period_of(entry.made_at)
        if period not in best or (entry.is_verified and not best[period].is_verified):
            best[period] = entry
    return list(islice(best.values(), count))


def _day_in(timezone: ZoneInfo) -> Callable[[datetime], date]:
    return lambda instant: instant.astimezone(timezone).date()


def _week_in(timezone: ZoneInfo) -> Callable[[datetime], tuple[int, int]]:
    return lambda instant: instant.astimezone(timezone).isocalendar()[:2]


def _month_in(timezone: ZoneInfo) -> Callable[[datetime], tuple[int, int]]:
    def month(instant: datetime) -> tuple[int, int]:
        local = instant.astimezone(timezone)
        return local.year, local.month

    return month
