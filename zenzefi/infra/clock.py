"""The time of the database, told without asking it each time.

Tokens expire and windows end by one clock for all processes: the database's. Each process measures how far that clock
is from its own monotonic one and adds it up; the machine's wall clock, which may be wrong or step, is never read.
"""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

SAMPLES = 3  # the quickest of three round trips bounds the error by half of its time, about 0.2 ms on a LAN


class Clock:
    """UTC by the database's clock; ``synchronise`` must have succeeded once before ``now`` is asked."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Take the monotonic clock, in seconds."""
        self._monotonic = monotonic
        self._offset_s: float | None = None

    async def synchronise(self, read_database_time: Callable[[], Awaitable[datetime]]) -> None:
        """Measure the offset anew; errors of the reader pass through and leave the old offset in force."""
        best: tuple[float, float] | None = None
        for _ in range(SAMPLES):
            sent = self._monotonic()
            database_time = await read_database_time()
            received = self._monotonic()
            offset_s = database_time.timestamp() - (sent + received) / 2
            if best is None or received - sent < best[0]:
                best = (received - sent, offset_s)
        assert best is not None
        self._offset_s = best[1]

    def epoch_s(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        assert self._offset_s is not None, "the clock was never synchronised"
        return self._monotonic() + self._offset_s

    def now(self) -> datetime:
        """The present instant in UTC, to the microsecond."""
        assert self._offset_s is not None, "the clock was never synchronised"
        return datetime.fromtimestamp(self._monotonic() + self._offset_s, UTC)  # epoch_s(), at half of its cost

    def after(self, span: timedelta) -> datetime:
        """The instant ``span`` from now."""
        return self.now() + span
