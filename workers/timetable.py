"""When a job is due. Pure: every process finds the same instants, whenever it looks and however often."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo


class Timetable(Protocol):
    """The instants at which a job is due."""

    @property
    def period_s(self) -> float:
        """The seconds from one instant to the next; a day counts as 24 hours."""

    def latest(self, now: datetime) -> datetime:
        """The last instant that is not after ``now``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """Each multiple of ``period_s`` seconds since 1970, ``offset_s`` later."""

    period_s: float
    offset_s: float = 0.0

    def latest(self, now: datetime) -> datetime:
        """The last instant that is not after ``now``."""
        multiple = (now.timestamp() - self.offset_s) // self.period_s
        return datetime.fromtimestamp(multiple * self.period_s + self.offset_s, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Daily:
    """A time of day in a time zone, once on each of its dates.

    A time that the zone skips on a date (02:30 when clocks go forward) is due as much later as was skipped; of a time
    that comes twice, only the first is due (PEP 495, fold=0).
    """

    at: time
    zone: ZoneInfo

    @property
    def period_s(self) -> float:
        """The seconds from one instant to the next; a day counts as 24 hours."""
        return 86_400.0

    def latest(self, now: datetime) -> datetime:
        """The last instant that is not after ``now``."""
        today = now.astimezone(self.zone).date()
        instant = self._on(today)
        return instant if instant <= now else self._on(today - timedelta(days=1))

    def _on(self, day: date) -> datetime:
        return datetime.combine(day, self.at, self.zone).astimezone(UTC)
