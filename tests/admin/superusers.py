"""Superusers of the tests, and what the admin API's tests look up."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import aiohttp
import asyncpg

from tests.support.people import Person, register
from zenzefi.context import Context


async def make_superuser(ctx: Context, client: aiohttp.ClientSession) -> Person:
    """Somebody new who may do everything."""
    person = await register(client)
    async with ctx.transaction() as conn:
        await conn.execute("UPDATE users SET is_superuser = true WHERE id = $1", UUID(person.user_id))
    return person


async def audit_rows(ctx: Context, *, action: str, resource_id: str) -> list[asyncpg.Record]:
    """What the audit log says about one action on one resource, in its order."""
    async with ctx.connection() as conn:
        return await conn.fetch(
            "SELECT * FROM audit_log WHERE action = $1 AND resource_id = $2 ORDER BY id", action, resource_id
        )


async def until(expected: int, ask: Callable[[], Awaitable[int]], *, within_s: float) -> None:
    """Return once this is the answer's status; fail if a request that begins later than that has another one."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + within_s
    while True:
        is_last = clock() >= deadline
        status = await ask()
        if status == expected:
            return
        assert not is_last, f"after {within_s} s the status is still {status}, not {expected}"
        await asyncio.sleep(0.02)  # what is waited for happens in other processes as well, and tells nobody
