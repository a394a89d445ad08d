"""What a client sees when it asks too often."""

import math
from typing import ClassVar

from zenzefi.errors import NotFound, Unavailable, ZenzefiError
from zenzefi.ratelimit.fields import limit_fields
from zenzefi.ratelimit.ring import LimitClass
from zenzefi.settings import RateLimit


class RateLimitExceeded(ZenzefiError):
    """Too many requests"""

    status: ClassVar[int] = 429
    code: ClassVar[str] = "rate_limit_exceeded"

    def __init__(self, limit_class: LimitClass, policy: RateLimit, *, retry_after_s: float) -> None:
        """Take the limit, and the seconds after which the same request is admitted."""
        whole_s = max(1, math.ceil(retry_after_s))
        fields = limit_fields(limit_class, policy, remaining=0, reset_s=whole_s)
        super().__init__(
            f"Rate limit exceeded. Max {policy.limit} requests per {policy.window_s} s",
            headers={"Retry-After": str(whole_s), **dict(fields)},
            limit=policy.limit,
            window=policy.window_s,
            retry_after=whole_s,
        )


class LimitUnknown(Unavailable):
    """The rate limit cannot be checked for the moment"""

    code = "rate_limit_unavailable"


class UnknownLimitClass(NotFound):
    """There is no such class of rate limits"""

    code = "unknown_limit_class"
