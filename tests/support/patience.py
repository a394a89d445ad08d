"""Time for measuring what the product takes, on a machine that may itself stand still for a second."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

# How late the event loop may be before that counts as standing still; also how often it is looked at.
LOOK_S = 0.01


class PatientClock:
    """Seconds as the event loop lived through them: it stops whenever the loop is late.

    Whoever waits in vain for the product lets it run; whoever was kept from the processor, or frozen, does not.
    """

    def __init__(self) -> None:
        """Begin; must be called in a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._late_s = 0.0
        self._look_again()

    @property
    def late_s(self) -> float:
        """For how long it has stood still so far."""
        return self._late_s + max(0.0, time.monotonic() - self._due)

    def __call__(self) -> float:
        """The seconds of this clock."""
        return time.monotonic() - self.late_s

    def stop(self) -> None:
        """Look no more."""
        self._handle.cancel()

    def _look_again(self) -> None:
        self._due = time.monotonic() + 2 * LOOK_S
        self._handle = self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._late_s = self.late_s
        self._look_again()


@contextmanager
def patient_clock() -> Iterator[PatientClock]:
    """A clock for as long as something is measured."""
    clock = PatientClock()
    try:
        yield clock
    finally:
        clock.stop()
