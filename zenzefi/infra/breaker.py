"""A circuit breaker as a pure state machine: no I/O, no event loop, the clock is given.

After Nygard, "Release It!" (2007), chapter 5: consecutive failures open the circuit, calls then fail at once instead of
each waiting for its own timeout, and after a pause one probe decides whether the circuit closes again.
"""

import time
from collections.abc import Callable
from enum import StrEnum


class BreakerState(StrEnum):
    """What a breaker lets through: everything, nothing, or one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Opens after `failure_threshold` failures in a row and lets one probe through every `open_s` seconds.

    Not thread-safe: one breaker belongs to one event loop. Each `allow()` that returned True is to be followed by
    `record_success()` or `record_failure()`. A probe that never reports (its task was cancelled) does not hold the
    circuit open for ever: the next probe is let through `open_s` after it.
    """

    __slots__ = ("_clock", "_failure_threshold", "_failures", "_open_s", "_opened_at", "_probing")

    def __init__(self, *, failure_threshold: int, open_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        if failure_threshold < 1:
            raise ValueError("failure_threshold is at least 1")
        if open_s <= 0:
            raise ValueError("open_s is positive")
        self._failure_threshold = failure_threshold
        self._open_s = open_s
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False

    @property
    def state(self) -> BreakerState:
        """The state now; HALF_OPEN from the moment when a probe is due until it reports."""
        if self._opened_at is None:
            return BreakerState.CLOSED
        if self._probing or self._clock() - self._opened_at >= self._open_s:
            return BreakerState.HALF_OPEN
        return BreakerState.OPEN

    @property
    def retry_after_s(self) -> float:
        """Seconds until the next probe is let through; 0.0 when a call may be made now."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._open_s - self._clock())

    def allow(self) -> bool:
        """Whether a call may be made now. True while half open makes the caller the probe."""
        if self._opened_at is None:
            return True
        now = self._clock()
        if now - self._opened_at < self._open_s:
            return False
        # The pause starts anew with the probe: other calls are refused while it runs, and a lost probe is replaced.
        self._opened_at = now
        self._probing = True
        return True

    def record_success(self) -> None:
        """A call got through: closes the circuit and forgets the failures."""
        self._failures = 0
        self._opened_at = None
        self._probing = False

    def record_failure(self) -> None:
        """A call failed: opens the circuit when it was the probe, or the last of too many in a row."""
        if self._opened_at is not None:
            if self._probing:
                self._probing = False
                self._opened_at = self._clock()
            # Else a call from before the circuit opened, which says nothing new: the pause is not made longer.
            return
        self._failures += 1
        if self._failures >= self._failure_threshold:
            self._opened_at = self._clock()
