"""What a process knows of one subject of one limit, and what it decides."""

import asyncio
from dataclasses import dataclass

from zenzefi.ratelimit.fields import limit_fields
from zenzefi.ratelimit.ring import LimitClass
from zenzefi.ratelimit.window import AdmissionLog
from zenzefi.settings import RateLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """An admitted request: what the RateLimit header says, and the stamp by which it can be forgiven."""

    limit_class: LimitClass
    policy: RateLimit
    remaining: int
    reset_s: float
    stamp: bytes = b""

    def fields(self) -> tuple[tuple[str, str], ...]:
        """The fields of draft-ietf-httpapi-ratelimit-headers-10, for the response."""
        return limit_fields(self.limit_class, self.policy, remaining=self.remaining, reset_s=self.reset_s)


class Subject:
    """What one process knows of one subject of one class."""

    __slots__ = (
        "charged",
        "charging",
        "debt",
        "denied_until",
        "free",
        "key",
        "next_free_at",
        "permits",
        "portion",
        "retry_at",
        "seen",
        "spend_by",
        "stamp",
        "waiting",
    )

    def __init__(self, key: str, window_s: float) -> None:
        self.key = key
        self.permits = 0  # charged and not spent
        self.charged = 0  # how many the last charge gave
        self.spend_by = 0.0  # monotonic: when they lapse
        self.portion = 1  # how many to charge next time
        self.waiting = 0  # requests that wait for a permit now
        self.free = 0  # what the ring had left
        self.next_free_at = 0.0
        self.denied_until = 0.0  # monotonic: the answer is no until then, without asking
        self.retry_at = 0.0
        self.debt = 0  # admitted while Redis was away, and not charged yet
        self.seen = AdmissionLog(window_s)
        self.stamp = b""
        self.charging: asyncio.Task[None] | None = None
