"""The words of this slice: devices, admissions, what came of a request, sessions of use."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, Self
from uuid import UUID

from zenzefi.access.models import TokenGrant
from zenzefi.ratelimit.errors import RateLimitExceeded
from zenzefi.ratelimit.subject import Decision

HINT_CHARACTERS = 4  # enough to tell one's own devices apart; the shortest device id keeps as many to itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device as the gateway remembers it: never the identifier that the client sent."""

    device_hash: bytes = field(repr=False)
    hint: str

    @classmethod
    def of(cls, device_id: str) -> Self:
        """The device of a checked X-Device-ID (visible ASCII)."""
        return cls(
            device_hash=hashlib.sha256(device_id.encode("ascii")).digest(), hint=f"…{device_id[-HINT_CHARACTERS:]}"
        )


class Verdict(NamedTuple):
    """What is known of a token and a device.

    ``grant`` is None when the token cannot be used. ``held_by_other_ms`` is 0 unless another device holds it for so
    long; ``refusal`` is there when the lease is free, and was not taken because the token's limit is reached. Both say
    nothing when the scope does not fit, for then no lease was asked for.
    """

    grant: TokenGrant | None
    confirmed_at: float
    held_by_other_ms: int = 0
    refusal: RateLimitExceeded | None = None


class Admission(NamedTuple):
    """A request that may go upstream: its token is usable, its scope fits and its device holds the token.

    ``confirmed_at`` is this process's monotonic clock before Redis or PostgreSQL were asked; what was revoked since
    then is not in it.
    """

    grant: TokenGrant
    device: Device
    confirmed_at: float
    decision: Decision | None  # of the rate limit; None where it is off


class Outcome(StrEnum):
    """What came of a metered request."""

    SERVED = "served"  # the upstream answered; bytes of a request that still runs count as served, too
    UPSTREAM_ERROR = "upstream_error"  # the upstream answered with a 5xx of its own
    UPSTREAM_FAILED = "upstream_failed"  # the gateway answered 502, 503 or 504 in its place
    DENIED = "denied"  # a usable token, but a scope, path, device or limit stood in the way
    ABORTED = "aborted"  # the client went away, or sent a body that could not be read
    ENDED = "ended"  # the token expired or was revoked while the request ran


class StreamEnd(StrEnum):
    """Why the gateway ends a stream that both sides would continue."""

    EXPIRED = "expired"
    REVOKED = "revoked"
    DEVICE_RELEASED = "device_released"
    DEVICE_CONFLICT = "device_conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySession:
    """A run of requests of one device with one token, no two of them more than five minutes apart."""

    session_id: UUID
    device_hint: str
    ip: IPv4Address | IPv6Address | None
    user_agent: str | None
    started_at: datetime
    last_activity: datetime
    ended_at: datetime | None
    request_count: int
    bytes_in: int
    bytes_out: int


@dataclass(slots=True, kw_only=True)
class Usage:
    """What one token did in one hour with one outcome, as counted up to now; the hour is given by its beginning."""

    token_id: UUID
    user_id: UUID
    hour: datetime
    outcome: Outcome
    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(slots=True, kw_only=True)
class SessionUse:
    """What one device did with one token between `first_at` and `last_at`, as counted up to now."""

    token_id: UUID
    device: Device
    ip: IPv4Address | IPv6Address | None
    user_agent: str | None
    first_at: datetime
    last_at: datetime
    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStatus:
    """What /proxy/status tells the holder of a token; ``holds_device`` is None when no device was named."""

    decision: Decision | None
    grant: TokenGrant
    device_hint: str | None
    holds_device: bool | None
    time_remaining_s: int
