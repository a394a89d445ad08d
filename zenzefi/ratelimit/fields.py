"""The header fields that tell a client of its limits (draft-ietf-httpapi-ratelimit-headers-10)."""

import math

from zenzefi.ratelimit.ring import LimitClass
from zenzefi.settings import RateLimit


def limit_fields(
    limit_class: LimitClass, policy: RateLimit, *, remaining: int, reset_s: float
) -> tuple[tuple[str, str], ...]:
    """What is left, the seconds until more is, and the policy: ``"api";r=99;t=60`` and ``"api";q=100;w=60``."""
    return (
        ("RateLimit", f'"{limit_class}";r={max(0, remaining)};t={math.ceil(reset_s)}'),
        ("RateLimit-Policy", f'"{limit_class}";q={policy.limit};w={policy.window_s}'),
    )
