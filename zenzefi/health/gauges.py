"""What jobs have found, as gauges: each worker reads it from the database in the background, and scrapes find it there.

So a worker that has just started tells of yesterday's backup, whichever worker made it, and a scrape costs no query.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from typing import Final, TypeAlias

import asyncpg
import structlog

from zenzefi.context import Context
from zenzefi.errors import DatabaseUnavailable, JsonObject, RedisUnavailable
from zenzefi.health import census, service
from zenzefi.health.probes import probe_redis
from zenzefi.infra import facts
from zenzefi.infra import state_instruments as state
from zenzefi.infra.instruments import JOB_LAST_SUCCESS, JOB_PERIOD, QUEUE_JOBS, QUEUE_OLDEST_AGE, QUEUE_WORKERS
from zenzefi.infra.metrics import Gauge, Metric
from zenzefi.infra.queue import QueueState, queue_state
from zenzefi.jobs import Queue

READ_S: Final = 10.0
# Two missed looks at the usual interval: what the upstream was found to be then says nothing any more.
_UPSTREAM_LOOK_LIFETIME: Final = timedelta(minutes=3)
_UNKNOWN: Final = math.nan  # is not shown

Facts: TypeAlias = Mapping[str, tuple[datetime, JsonObject]]

# The census' figures that are gauges as they are: which, and its labels.
_CENSUS: Final[dict[str, tuple[Metric[Gauge], tuple[str, ...]]]] = {
    "active_tokens": (state.TOKENS, ("active",)),
    "unused_tokens": (state.TOKENS, ("unused",)),
    "open_sessions": (state.ACTIVE_SESSIONS, ()),
    "active_users": (state.ACTIVE_USERS, ()),
    "users": (state.USERS, ()),
    "pending_payments": (state.PAYMENTS_PENDING, ()),
    "stuck_payments": (state.PAYMENTS_STUCK, ()),
    "outbox_mails": (state.OUTBOX_PENDING, ()),
    "database_bytes": (state.DATABASE_SIZE, ()),
    "database_active": (state.DATABASE_CONNECTIONS, ("active",)),
    "database_idle": (state.DATABASE_CONNECTIONS, ("idle",)),
    "database_idle_in_transaction": (state.DATABASE_CONNECTIONS, ("idle_in_transaction",)),
    "database_lock_waits": (state.DATABASE_LOCK_WAITS, ()),
    "database_oldest_transaction_s": (state.DATABASE_OLDEST_TRANSACTION, ()),
    "database_max_connections": (state.DATABASE_MAX_CONNECTIONS, ()),
    "redis_bytes": (state.REDIS_MEMORY, ()),
    "redis_max_bytes": (state.REDIS_MAX_MEMORY, ()),
    "redis_clients": (state.REDIS_CLIENTS, ()),
    "redis_max_clients": (state.REDIS_MAX_CLIENTS, ()),
}

# Its instants, which are shown as ages.
_CENSUS_AGES: Final = {
    "oldest_payment_at": state.PAYMENT_OLDEST_AGE,
    "oldest_mail_at": state.OUTBOX_OLDEST_AGE,
    "oldest_usage_at": state.ROLLUP_LAG,
}

log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def show_facts(ctx: Context) -> AsyncIterator[None]:
    """Keep this worker's gauges of the service's state up to date meanwhile."""
    refreshing = asyncio.get_running_loop().create_task(_refresh_for_ever(ctx))
    try:
        yield
    finally:
        refreshing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await refreshing


async def refresh(ctx: Context) -> None:
    """Read what is known and set the gauges; what cannot be read now is left as it was, and says so by its age."""
    known, queues, redis = await asyncio.gather(_read_facts(ctx), _read_queues(ctx), probe_redis(ctx))
    _show_up("database", None if known is None else 1.0)
    _show_up("queue", None if queues is None else 1.0)
    _show_up("redis", 1.0 if redis.passed else None)
    for queue, found in (queues or {}).items():
        QUEUE_JOBS.labels(queue.value).set(found.waiting)
        QUEUE_OLDEST_AGE.labels(queue.value).set(found.oldest_age_s)
        QUEUE_WORKERS.labels(queue.value).set(found.workers)
    if known is not None:
        show(known, now=ctx.now())
        state.FACTS_READ.labels().set(time.time())


def show(known: Facts, *, now: datetime) -> None:
    """Set every gauge that is a fact."""
    _show_jobs(known)
    _show_census(known, now=now)
    _show_inspections(known)
    _show_backups(known)
    at, looked = known.get(service.FACT, (now, {}))
    _show_up("upstream", _number(looked, "upstream") if now - at < _UPSTREAM_LOOK_LIFETIME else _UNKNOWN)


def _show_jobs(known: Facts) -> None:
    for (name,) in JOB_PERIOD.children:  # the jobs of the schedule
        _, outcome = known.get(f"job:{name}", (None, {}))
        JOB_LAST_SUCCESS.labels(name).set(_number(outcome, "last_success", never=0.0))


def _show_census(known: Facts, *, now: datetime) -> None:
    at, counted = known.get(census.FACT, (None, {}))
    state.SNAPSHOT_TAKEN.labels().set(0.0 if at is None else at.timestamp())
    for key, (metric, labels) in _CENSUS.items():
        metric.labels(*labels).set(_number(counted, key))
    for key, age in _CENSUS_AGES.items():
        age.labels().set(max(0.0, now.timestamp() - _number(counted, key, never=now.timestamp())))


def _show_inspections(known: Facts) -> None:
    at, ledger = known.get("ledger", (None, {}))
    state.LEDGER_INSPECTED.labels().set(0.0 if at is None else at.timestamp())
    state.LEDGER_IMBALANCE.labels().set(_number(ledger, "imbalance", never=0.0))
    state.LEDGER_FAULTS.labels().set(_number(ledger, "faults", never=0.0))
    at, audit = known.get("audit", (None, {}))
    state.AUDIT_VERIFIED.labels().set(0.0 if at is None else at.timestamp())
    state.AUDIT_FAULTS.labels().set(_number(audit, "faults", never=0.0))


def _show_backups(known: Facts) -> None:
    _, backups = known.get("backups", (None, {}))
    state.BACKUP_LAST_SUCCESS.labels().set(_number(backups, "last_success", never=0.0))
    state.BACKUP_LAST_VERIFIED.labels().set(_number(backups, "last_verified", never=0.0))
    state.BACKUP_SIZE.labels().set(_number(backups, "size_bytes", never=0.0))
    state.BACKUP_DURATION.labels().set(_number(backups, "duration_s", never=0.0))
    failed = _number(backups, "failed_verifications", never=0.0)
    state.BACKUPS.labels("failed").set(failed)
    state.BACKUPS.labels("sound").set(_number(backups, "count", never=0.0) - failed)


def _show_up(dependency: str, value: float | None) -> None:
    state.DEPENDENCY_UP.labels(dependency).set(0.0 if value is None else value)


def _number(document: JsonObject, key: str, *, never: float = _UNKNOWN) -> float:
    """A figure of a fact; money is text there, and nothing is what nobody has found yet."""
    value = document.get(key)
    return float(value) if isinstance(value, int | float | str) else never


async def _read_facts(ctx: Context) -> Facts | None:
    try:
        async with ctx.connection() as conn:
            return await facts.read_all(conn)
    except (DatabaseUnavailable, asyncpg.PostgresError) as error:
        log.warning("facts_not_read", error=repr(error))
        return None


async def _read_queues(ctx: Context) -> Mapping[Queue, QueueState] | None:
    try:
        return await queue_state(ctx)
    except RedisUnavailable as error:
        log.warning("queues_not_read", error=repr(error))
        return None


async def _refresh_for_ever(ctx: Context) -> None:
    while True:
        try:
            await refresh(ctx)
        except Exception:
            log.exception("gauges_not_refreshed")  # a fact of another version; the next may be readable
        await asyncio.sleep(READ_S)
