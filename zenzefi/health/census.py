"""The census: what has to be counted by queries, counted by a job, so that no scrape waits for a query.

Its cost is bounded however much is stored: what is many is counted up to a bound, and estimated above it.
"""

import asyncio
from datetime import timedelta
from typing import Final

import structlog
from redis.exceptions import RedisError

from zenzefi.context import Context
from zenzefi.errors import JsonObject, JsonValue
from zenzefi.health import census_queries as queries
from zenzefi.infra import facts
from zenzefi.infra.db import Connection
from zenzefi.infra.redis import plain_client
from zenzefi.mail import service as mail

FACT: Final = "gauges"
# The job that asks about pending payments comes each minute, and puts off what it asks about.
_CHECK_LATE: Final = timedelta(minutes=15)
# After a week nobody waits for a payment any more (zenzefi.wallet.settlement); a day later it must have ended.
_PAYMENT_TOO_OLD: Final = timedelta(days=8)
_REDIS_TIMEOUT_S: Final = 2.0

log = structlog.get_logger(__name__)


async def take_census(ctx: Context) -> str:
    """Count, and keep the result as a fact. Changes nothing else; any number may run at the same time."""
    redis = await _ask_redis(ctx)
    async with ctx.transaction() as conn:
        await queries.walk_indexes_only(conn)
        document: JsonObject = {
            **await _count_tokens(conn, ctx),
            **await _count_people(conn),
            **await _count_payments(conn, ctx),
            **await _count_mails(conn, ctx),
            **await _find_usage(conn),
            **await _look_at_database(conn),
            **redis,
        }
        await facts.put(conn, name=FACT, document=document, at=ctx.now())
    return f"{len(document)} figures"


async def _count_tokens(conn: Connection, ctx: Context) -> dict[str, JsonValue]:
    now = ctx.now()
    active, unused = await queries.count_active_tokens(conn, now=now), await queries.count_unused_tokens(conn)
    if max(active, unused) >= queries.EXACT_ROWS:
        estimated_active, estimated_unused = await queries.estimate_tokens(conn, now=now)
        if active >= queries.EXACT_ROWS:
            active = max(active, estimated_active)
        if unused >= queries.EXACT_ROWS:
            unused = max(unused, estimated_unused)
    return {"active_tokens": active, "unused_tokens": unused}


async def _count_people(conn: Connection) -> dict[str, JsonValue]:
    sessions = await queries.count_open_sessions(conn)
    if sessions >= queries.EXACT_ROWS:
        sessions = max(sessions, await queries.estimate_open_sessions(conn))
    active_users = await queries.count_active_users(conn)
    if sessions > queries.EXACT_SESSIONS:
        active_users = active_users * sessions // queries.EXACT_SESSIONS
    users = await queries.count_users(conn)
    if users >= queries.EXACT_ROWS:
        users = max(users, await queries.estimate_users(conn))
    return {"open_sessions": sessions, "active_users": active_users, "users": users}


async def _count_payments(conn: Connection, ctx: Context) -> dict[str, JsonValue]:
    now = ctx.now()
    found = await queries.find_pending_payments(
        conn, unchecked_since=now - _CHECK_LATE, begun_before=now - _PAYMENT_TOO_OLD
    )
    return {
        "pending_payments": found.pending,
        "stuck_payments": found.stuck,
        "oldest_payment_at": None if found.oldest_at is None else found.oldest_at.timestamp(),
    }


async def _count_mails(conn: Connection, ctx: Context) -> dict[str, JsonValue]:
    due, oldest_at = await mail.outbox_state(conn, now=ctx.now())
    return {"outbox_mails": due, "oldest_mail_at": None if oldest_at is None else oldest_at.timestamp()}


async def _find_usage(conn: Connection) -> dict[str, JsonValue]:
    batch_id = await queries.find_oldest_batch(conn)
    # RFC 9562, section 5.7: milliseconds since 1970.
    return {"oldest_usage_at": None if batch_id is None else (batch_id.int >> 80) / 1000}


async def _look_at_database(conn: Connection) -> dict[str, JsonValue]:
    activity = await queries.get_activity(conn)
    return {
        "database_bytes": await queries.get_database_size(conn),
        "database_active": activity.active,
        "database_idle": activity.idle,
        "database_idle_in_transaction": activity.idle_in_transaction,
        "database_lock_waits": activity.lock_waits,
        "database_oldest_transaction_s": activity.oldest_transaction_s,
        "database_max_connections": activity.max_connections,
    }


async def _ask_redis(ctx: Context) -> dict[str, JsonValue]:
    """What the server of the hot path says of itself (of a cluster, the node that the settings name)."""
    try:
        async with asyncio.timeout(_REDIS_TIMEOUT_S), plain_client(ctx.settings) as redis:
            info = await redis.info()
    except (RedisError, OSError) as error:  # TimeoutError is an OSError
        log.warning("redis_not_asked", error=repr(error))
        return {}
    return {
        "redis_bytes": info["used_memory"],
        "redis_max_bytes": info["maxmemory"] or info["total_system_memory"],
        "redis_clients": info["connected_clients"],
        "redis_max_clients": info["maxclients"],
    }
