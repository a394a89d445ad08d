"""The service's health: a snapshot that a job refreshes, and this process's readiness."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta

from zenzefi.context import Context
from zenzefi.errors import DatabaseUnavailable, RedisUnavailable
from zenzefi.health.models import Check, HealthStatus, Snapshot
from zenzefi.health.probes import probe_database, probe_redis, probe_schema, probe_upstream
from zenzefi.infra import facts

SNAPSHOT_KEY = "znz:health"
FACT = "health"
# Two missed refreshes at the usual interval: then no worker refreshes it, and it may be wrong.
SNAPSHOT_LIFETIME = timedelta(minutes=2)
# /health is public: however often it is asked without a snapshot, the dependencies are asked this seldom.
LOCAL_LIFETIME = timedelta(seconds=2)


class LocalHealth:
    """What this process found last, and the look that is under way."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.probing: asyncio.Task[Snapshot] | None = None


async def refresh_health(ctx: Context) -> HealthStatus:
    """Look at all dependencies and leave the snapshot for the web processes. Idempotent."""
    checks = await _probe(ctx)
    await _keep(ctx, checks)
    snapshot = Snapshot(status=_judge(checks), taken_at=ctx.now())
    document = json.dumps({"status": snapshot.status, "taken_at": snapshot.taken_at.isoformat()})
    lifetime_ms = int(SNAPSHOT_LIFETIME.total_seconds() * 1000)
    await ctx.redis.run("SET", SNAPSHOT_KEY, document, "PX", lifetime_ms)
    return snapshot.status


async def get_health(ctx: Context) -> Snapshot:
    """Return the snapshot of the job, or, without a fresh one, what this process finds now."""
    snapshot = await _find_shared(ctx)
    if snapshot is not None and _is_fresh(ctx, snapshot, SNAPSHOT_LIFETIME):
        return snapshot
    local = ctx.local(LocalHealth)
    if local.snapshot is not None and _is_fresh(ctx, local.snapshot, LOCAL_LIFETIME):
        return local.snapshot
    if local.probing is None or local.probing.done():
        local.probing = asyncio.get_running_loop().create_task(_take_snapshot(ctx))
    # Shielded: the look belongs to all who wait for it, and one of them may hang up.
    local.snapshot = await asyncio.shield(local.probing)
    return local.snapshot


async def check_readiness(ctx: Context) -> list[Check]:
    """Return whether this process should be given requests, check by check."""
    if ctx.draining:
        return [Check(name="serving", passed=False, detail="the process is draining")]
    checks = await asyncio.gather(probe_database(ctx), probe_redis(ctx), probe_schema(ctx))
    return [*checks, Check(name="serving", passed=True)]


async def _take_snapshot(ctx: Context) -> Snapshot:
    return Snapshot(status=_judge(await _probe(ctx)), taken_at=ctx.now())


async def _probe(ctx: Context) -> dict[str, bool]:
    checks = await asyncio.gather(
        probe_database(ctx), probe_redis(ctx), probe_upstream(ctx.upstream, ctx.settings.upstream_url)
    )
    return {check.name: check.passed for check in checks}


def _judge(passed: Mapping[str, bool]) -> HealthStatus:
    if not (passed["database"] and passed["redis"]):
        return HealthStatus.UNHEALTHY
    return HealthStatus.HEALTHY if passed["upstream"] else HealthStatus.DEGRADED


async def _keep(ctx: Context, passed: Mapping[str, bool]) -> None:
    """Keep what was found as a fact, for the metrics; without the database they tell of that themselves."""
    with suppress(DatabaseUnavailable):
        async with ctx.connection() as conn:
            await facts.put(conn, name=FACT, document=dict(passed), at=ctx.now())


async def _find_shared(ctx: Context) -> Snapshot | None:
    try:
        document = await ctx.redis.run("GET", SNAPSHOT_KEY)
    except RedisUnavailable:
        return None
    if not isinstance(document, bytes):
        return None
    members = json.loads(document)
    return Snapshot(status=HealthStatus(members["status"]), taken_at=datetime.fromisoformat(members["taken_at"]))


def _is_fresh(ctx: Context, snapshot: Snapshot, lifetime: timedelta) -> bool:
    return ctx.now() - snapshot.taken_at < lifetime
