"""What jobs have found is what every worker's metrics show, and what nobody can know any more is not shown."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.support.exposition import parse
from tests.support.servers import Cluster
from workers import outcomes
from zenzefi.context import Context, open_context
from zenzefi.devstack.ports import find_free_port
from zenzefi.errors import JsonObject
from zenzefi.health import gauges
from zenzefi.health.service import refresh_health
from zenzefi.infra import facts
from zenzefi.infra.exposition import render
from zenzefi.infra.instruments import JOB_PERIOD, REGISTRY
from zenzefi.infra.queue import queue_key
from zenzefi.jobs import Job, Queue
from zenzefi.settings import Settings


@pytest.fixture
async def fresh_ctx(cluster: Cluster, fresh_database: str, env: dict[str, str]) -> AsyncIterator[Context]:
    async with open_context(Settings.from_env({**env, **cluster.settings_env(fresh_database)})) as context:
        yield context


def shown(metric: str, /, **labels: str) -> float | None:
    """A gauge of this process; None when it is not shown."""
    wanted = {*labels.items(), ("process", "0")}
    return parse("".join(render(REGISTRY))).get((f"zenzefi_{metric}", frozenset(wanted)))


async def put(ctx: Context, name: str, document: JsonObject, *, age: timedelta = timedelta(0)) -> float:
    async with ctx.connection() as conn:
        at = ctx.now() - age
        await facts.put(conn, name=name, document=document, at=at)
    return at.timestamp()


async def test_before_any_job_has_run_nothing_ever_happened(fresh_ctx: Context) -> None:
    JOB_PERIOD.labels(Job.BACK_UP_DATABASE.value).set(86_400)
    await fresh_ctx.redis.run("DEL", queue_key(Queue.HEAVY))  # what other tests have left there
    await gauges.refresh(fresh_ctx)
    for name in (
        *("backup_last_success_timestamp_seconds", "backup_last_verified_timestamp_seconds"),
        *("ledger_inspected_timestamp_seconds", "audit_verified_timestamp_seconds", "snapshot_timestamp_seconds"),
    ):
        assert shown(name) == 0, name
    assert shown("job_last_success_timestamp_seconds", name=Job.BACK_UP_DATABASE) == 0
    assert shown("tokens", state="active") is None
    assert shown("rollup_lag_seconds") == 0
    assert shown("dependency_up", dependency="upstream") is None
    for dependency in ("database", "redis", "queue"):
        assert shown("dependency_up", dependency=dependency) == 1
    assert shown("queue_jobs", queue="heavy") == 0
    assert shown("queue_oldest_age_seconds", queue="default") is not None


async def test_what_was_found_is_shown_however_long_ago(fresh_ctx: Context) -> None:
    JOB_PERIOD.labels(Job.PRUNE_BACKUPS.value).set(86_400)
    inspected_at = await put(fresh_ctx, "ledger", {"imbalance": "-0.01", "faults": 2}, age=timedelta(days=3))
    verified_at = await put(fresh_ctx, "audit", {"faults": 1}, age=timedelta(days=2))
    backups: JsonObject = {
        "last_success": 1_000.5,
        "last_verified": None,
        "size_bytes": 2**40,
        "duration_s": 12.5,
        "count": 9,
        "failed_verifications": 2,
    }
    await put(fresh_ctx, "backups", backups)
    census: JsonObject = {
        "active_tokens": 7,
        "oldest_payment_at": fresh_ctx.now().timestamp() - 60,
        "oldest_usage_at": 1,
    }
    taken_at = await put(fresh_ctx, "gauges", census, age=timedelta(hours=1))
    done_after = fresh_ctx.now().timestamp()
    await outcomes.keep(fresh_ctx, Job.PRUNE_BACKUPS, succeeded=True, result=3, duration_s=1.0)
    done_before = fresh_ctx.now().timestamp()
    await outcomes.keep(fresh_ctx, Job.PRUNE_BACKUPS, succeeded=False, result="no", duration_s=1.0)
    await refresh_health(fresh_ctx)
    await gauges.refresh(fresh_ctx)
    assert shown("ledger_imbalance_znc") == -0.01
    assert shown("ledger_faults") == 2
    assert shown("ledger_inspected_timestamp_seconds") == pytest.approx(inspected_at)
    assert shown("audit_faults") == 1
    assert shown("audit_verified_timestamp_seconds") == pytest.approx(verified_at)
    assert shown("backup_last_success_timestamp_seconds") == 1_000.5
    assert shown("backup_last_verified_timestamp_seconds") == 0
    assert shown("backup_last_size_bytes") == 2**40
    assert (shown("backups", state="sound"), shown("backups", state="failed")) == (7, 2)
    assert shown("tokens", state="active") == 7
    assert shown("tokens", state="unused") is None, "a snapshot without it says nothing of it"
    assert shown("rollup_lag_seconds") == pytest.approx(fresh_ctx.now().timestamp() - 1, abs=10)
    assert shown("payment_oldest_pending_age_seconds") == pytest.approx(60, abs=10)
    assert shown("snapshot_timestamp_seconds") == pytest.approx(taken_at)
    done_at = shown("job_last_success_timestamp_seconds", name=Job.PRUNE_BACKUPS)
    assert done_at is not None
    assert done_after <= done_at <= done_before
    assert shown("dependency_up", dependency="upstream") == 1


async def test_an_old_look_at_the_upstream_says_nothing(fresh_ctx: Context) -> None:
    await put(fresh_ctx, "health", {"upstream": False})
    await gauges.refresh(fresh_ctx)
    assert shown("dependency_up", dependency="upstream") == 0
    gauges.show({"health": (fresh_ctx.now() - timedelta(minutes=4), {"upstream": False})}, now=fresh_ctx.now())
    assert shown("dependency_up", dependency="upstream") is None


async def test_a_database_and_a_redis_that_are_away_are_told_and_the_rest_grows_old(
    cluster: Cluster, fresh_database: str, env: dict[str, str]
) -> None:
    away = {"REDIS_PORT": str(find_free_port()), "QUEUE_REDIS_PORT": str(find_free_port())}
    own = Settings.from_env({**env, **cluster.settings_env(fresh_database), **away})
    async with open_context(own) as ctx:
        await put(ctx, "gauges", {"users": 5})
        await gauges.refresh(ctx)
        read_at = shown("facts_read_timestamp_seconds")
        ctx.db.terminate()
        await gauges.refresh(ctx)
        for dependency in ("database", "redis", "queue"):
            assert shown("dependency_up", dependency=dependency) == 0
        assert shown("users") == 5
        assert shown("facts_read_timestamp_seconds") == read_at
