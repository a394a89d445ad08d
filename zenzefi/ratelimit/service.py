"""Charging a subject, from anywhere in the process."""

import hashlib
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final
from uuid import UUID

from zenzefi.context import Context
from zenzefi.ratelimit.limiter import Limiter
from zenzefi.ratelimit.ring import LimitClass
from zenzefi.ratelimit.subject import Decision

# RFC 6177: a /64 is one site's network, and its holder has 2^64 addresses to come from.
_IPV6_PREFIX: Final = 64


def limiter_of(ctx: Context) -> Limiter:
    """This process's limiter."""
    return ctx.local(Limiter, _open_limiter)


def _open_limiter(ctx: Context) -> Limiter:
    limiter = Limiter(ctx.settings, ctx.redis)
    ctx.samplers.append(limiter.sample)
    return limiter


async def admit(ctx: Context, limit_class: LimitClass, subject: str) -> Decision | None:
    """Charge one request to a subject; None when the class is off.

    Raises:
        RateLimitExceeded: its limit is reached.
        LimitUnknown: Redis is away, and the limit is too small to be shared among the processes.
    """
    limiter = limiter_of(ctx).get(limit_class)
    return None if limiter is None else await limiter.admit(subject)


async def forgive(ctx: Context, subject: str, decision: Decision | None) -> None:
    """Take back what ``admit`` charged to the subject."""
    limiter = None if decision is None else limiter_of(ctx).get(decision.limit_class)
    if limiter is not None and decision is not None:
        await limiter.forgive(subject, decision)


async def carry_over(ctx: Context, *, old_token_hash: bytes, new_token_hash: bytes) -> None:
    """Let a token's new string go on where the old one stands: a new string is no new limit."""
    limiter = limiter_of(ctx).get(LimitClass.PROXY)
    if limiter is not None:
        await limiter.carry_over(token_subject(old_token_hash), token_subject(new_token_hash))


def user_subject(user_id: UUID) -> str:
    """A signed-in user."""
    return f"user:{user_id}"


def account_subject(email: str) -> str:
    """An account, or what is taken for one, by its normalised address; keys of Redis are no place for addresses."""
    return f"account:{hashlib.sha256(email.encode()).hexdigest()[:32]}"


def address_subject(address: IPv4Address | IPv6Address | None) -> str:
    """The subject of a client address: IPv4 by itself, IPv6 by its network of 64 bits."""
    if isinstance(address, IPv6Address):
        return f"ip:{ip_network((address, _IPV6_PREFIX), strict=False).network_address}"
    return f"ip:{address}"


def token_subject(token_hash: bytes) -> str:
    """An access token; the hash tag that the gateway's other keys of the token have."""
    return token_hash.hex()
