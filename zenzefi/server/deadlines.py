"""When a slow connection is given up: one small state per connection, judged by one sweep per process.

A timer per request would cost more than many requests do. The sweep looks at each connection once a second instead,
and what it needs is counted by the parts that move the bytes, so the hot path pays nothing.
"""

from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long a client may take; seconds. Each holds to within one sweep."""

    head_s: float = 10.0  # from the first byte of a head, or from connecting, to the end of the head
    body_grace_s: float = 8.0  # what a body may take before its rate counts
    body_bytes_per_s: float = 500.0  # a modem's rate is several times this; a drip is not
    body_credit_s: float = 30.0  # the longest stall that a fast start can save up for
    idle_s: float = 75.0  # between requests; longer than the 60 s a reverse proxy keeps its connections by default
    write_stall_s: float = 60.0  # without one byte of a response accepted
    linger_s: float = 1.0  # after a refusal and at a drain: time for what is already on its way
    unwanted_s: float = 2.0  # after an answer: time for the rest of a body that was not read
    sweep_s: float = 1.0


class Verdict(Enum):
    """What becomes of a connection that waits for a request."""

    KEEP = auto()
    CLOSE = auto()
    REFUSE = auto()  # it sent a part of a head: tell it


class Watch:
    """The clocks of one connection. All times are the event loop's."""

    __slots__ = ("_body", "_budget_s", "_flushed", "_flushed_at", "_idle_since", "_received", "_requests", "_swept_at")

    def __init__(self, now: float) -> None:
        self._idle_since = now
        self._requests = 0
        self._body = 0
        self._swept_at = 0.0
        self._budget_s = 0.0
        self._received = 0
        self._flushed: int | None = None
        self._flushed_at = 0.0

    def touch(self, now: float) -> None:
        """The connection is at work."""
        self._idle_since = now

    def idle_s(self, now: float, requests: int) -> float:
        """How long it has been waiting for a request, when `requests` came in all so far."""
        if requests != self._requests:
            self._requests, self._idle_since = requests, now
        return now - self._idle_since

    def judge_waiting(self, now: float, *, requests: int, head_since: float, deadlines: Deadlines) -> Verdict:
        """Judge a connection that waits for a request, of whose head a part came at `head_since` (0: nothing)."""
        idle_s = self.idle_s(now, requests)
        if head_since:
            # A head may have come behind a request that was long at work: it counts from when it was its turn.
            late = min(now - head_since, idle_s) >= deadlines.head_s
            return Verdict.REFUSE if late else Verdict.KEEP
        limit_s = deadlines.idle_s if requests else deadlines.head_s
        return Verdict.CLOSE if idle_s >= limit_s else Verdict.KEEP

    def is_body_too_slow(self, now: float, *, body: int, received: int, is_reading: bool, deadlines: Deadlines) -> bool:
        """Judge the body of the connection's request number `body`; the clock stands still while nobody reads it.

        A leaky bucket of seconds: reading takes a second for a second, each `body_bytes_per_s` bytes give one back.
        """
        if body != self._body:
            self._body, self._budget_s = body, deadlines.body_grace_s
        elif is_reading:
            earned_s = (received - self._received) / deadlines.body_bytes_per_s
            budget_s = self._budget_s - (now - self._swept_at) + earned_s
            self._budget_s = min(budget_s, deadlines.body_credit_s)
        self._swept_at, self._received = now, received
        return self._budget_s <= 0.0

    def is_write_stalled(self, now: float, *, flushed: int, deadlines: Deadlines) -> bool:
        """Judge a connection with unsent bytes; `flushed` changes whenever the client accepts some."""
        if flushed != self._flushed:
            self._flushed, self._flushed_at = flushed, now
        return now - self._flushed_at >= deadlines.write_stall_s

    def forget_write(self) -> None:
        """Everything was sent."""
        self._flushed = None
