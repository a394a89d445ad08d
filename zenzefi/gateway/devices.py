"""Who holds a token: PostgreSQL decides who gets a free lease, Redis remembers the holder and its last request.

So there is one winner under any concurrency, with Redis or without it, and a Redis that restarts empty gives no token
away. PostgreSQL hears of a lease when it is taken, and of its holder's requests about once a minute with the metered
usage (zenzefi.gateway.metering).
"""

import math
from datetime import datetime
from typing import Final

from zenzefi.access.models import TokenGrant
from zenzefi.context import Context
from zenzefi.gateway import queries
from zenzefi.gateway.models import Device
from zenzefi.gateway.tokens import LEASE_MS

_FREED_MEANWHILE_MS: Final = 1


async def take_lease(ctx: Context, *, grant: TokenGrant, device: Device) -> int:
    """Take a free lease, or renew one's own; 0, or the milliseconds for which another device holds the token.

    Raises:
        DatabaseUnavailable: nobody can know now.
    """
    now = ctx.now()
    async with ctx.connection() as conn:
        taken = await queries.upsert_device_lease(
            conn, token_id=grant.token_id, device=device, now=now, lease_ms=LEASE_MS
        )
        if taken:
            return 0
        lease = await queries.find_device_lease(conn, token_id=grant.token_id, now=now)
    if lease is None:
        return _FREED_MEANWHILE_MS
    _, expires_at = lease
    return _rest_ms(expires_at, now)


async def held_by_other_ms(ctx: Context, *, grant: TokenGrant, device: Device) -> int:
    """The milliseconds for which another device holds the token by PostgreSQL's word; 0 when none does.

    Raises:
        DatabaseUnavailable: nobody can know now.
    """
    now = ctx.now()
    async with ctx.connection() as conn:
        lease = await queries.find_device_lease(conn, token_id=grant.token_id, now=now)
    if lease is None:
        return 0
    device_hash, expires_at = lease
    return 0 if device_hash == device.device_hash else _rest_ms(expires_at, now)


async def find_holder(ctx: Context, *, grant: TokenGrant) -> Device | None:
    """The device that holds a token by PostgreSQL's word.

    Raises:
        DatabaseUnavailable: nobody can know now.
    """
    async with ctx.connection() as conn:
        lease = await queries.find_device_lease(conn, token_id=grant.token_id, now=ctx.now())
        if lease is None:
            return None
        device_hash, _ = lease
        hint = await queries.find_device_hint(conn, token_id=grant.token_id, device_hash=device_hash)
    return Device(device_hash=device_hash, hint=hint or "…")


def _rest_ms(expires_at: datetime, now: datetime) -> int:
    return math.ceil((expires_at - now).total_seconds() * 1000)
