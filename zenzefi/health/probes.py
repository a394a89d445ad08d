"""One bounded look at each dependency. A probe never raises: it returns what it found."""

import asyncio

import aiohttp
import asyncpg

from zenzefi.context import Context
from zenzefi.errors import RedisUnavailable, ZenzefiError
from zenzefi.health import queries
from zenzefi.health.models import Check
from zenzefi.infra.migrations import MigrationError, expected_ids

# A hung database costs up to 3 s more, for asyncpg to take leave of it: below the 10 s that common monitors wait.
PROBE_TIMEOUT_S = 2.0
# Together longer than the second for which the circuit breaker of the Redis client stays open after a blip.
_REDIS_ATTEMPTS = 3
_REDIS_PAUSE_S = 0.6


class SchemaAtHead:
    """Remembers, per process, that the schema was found at head: migrations are not rolled back under a running app."""

    def __init__(self) -> None:
        self.seen = False


async def probe_database(ctx: Context) -> Check:
    """Whether PostgreSQL answers."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S), ctx.connection() as conn:
            await queries.select_one(conn)
    except (ZenzefiError, asyncpg.PostgresError, TimeoutError) as error:
        return _failed("database", error)
    return Check(name="database", passed=True)


async def probe_redis(ctx: Context) -> Check:
    """Whether Redis answers; one lost packet is not an outage."""
    for attempt in range(_REDIS_ATTEMPTS):
        try:
            await ctx.redis.run("PING")
            return Check(name="redis", passed=True)
        except RedisUnavailable as error:
            failure = _failed("redis", error)
        if attempt < _REDIS_ATTEMPTS - 1:
            await asyncio.sleep(_REDIS_PAUSE_S)
    return failure


async def probe_upstream(session: aiohttp.ClientSession, url: str) -> Check:
    """Whether the upstream answers HTTP at all, with whatever status."""
    timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
    try:
        async with session.head(url, allow_redirects=False, timeout=timeout):
            return Check(name="upstream", passed=True)
    except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
        return _failed("upstream", error)


async def probe_schema(ctx: Context) -> Check:
    """Whether every migration of this version is applied."""
    memory = ctx.local(SchemaAtHead)
    if memory.seen:
        return Check(name="schema", passed=True)
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S), ctx.connection() as conn:
            applied = (
                await queries.select_applied_migrations(conn) if await queries.has_migration_table(conn) else set()
            )
        pending = sorted(set(expected_ids()) - applied)
    except (ZenzefiError, MigrationError, asyncpg.PostgresError, TimeoutError) as error:
        return _failed("schema", error)
    if pending:
        return Check(name="schema", passed=False, detail=f"not applied: {', '.join(pending)}")
    memory.seen = True
    return Check(name="schema", passed=True)


def _failed(name: str, error: Exception) -> Check:
    cause = error.__cause__ or error
    detail = "no answer in time" if isinstance(cause, TimeoutError) else str(cause) or str(error)
    return Check(name=name, passed=False, detail=detail)
