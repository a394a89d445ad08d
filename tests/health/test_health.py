"""GET /health: the job's snapshot where there is a fresh one, a look of its own where there is none."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import aiohttp
import pytest

from tests.support.inprocess import run_app
from tests.support.servers import Cluster
from zenzefi.context import Context, open_context
from zenzefi.devstack.ports import find_free_port
from zenzefi.health import service
from zenzefi.health.models import HealthStatus
from zenzefi.health.service import SNAPSHOT_KEY, get_health, refresh_health
from zenzefi.settings import Settings


@pytest.fixture(autouse=True)
async def _no_snapshot(ctx: Context) -> AsyncIterator[None]:
    await ctx.redis.run("DEL", SNAPSHOT_KEY)
    yield
    await ctx.redis.run("DEL", SNAPSHOT_KEY)


async def _health(url: str) -> tuple[int, dict[str, str]]:
    async with aiohttp.ClientSession(url) as client, client.get("/health") as response:
        return response.status, await response.json()


async def test_the_snapshot_of_the_job_is_told(ctx: Context, client: aiohttp.ClientSession) -> None:
    assert await refresh_health(ctx) is HealthStatus.HEALTHY
    taken_at = json.loads(await ctx.redis.run("GET", SNAPSHOT_KEY))["taken_at"]  # type: ignore[arg-type]
    async with client.get("/health") as response:
        assert response.status == 200
        assert response.headers["Cache-Control"] == "no-store"
        body = await response.json()
    assert set(body) == {"status", "timestamp"}
    assert body["status"] == "healthy"
    assert datetime.fromisoformat(body["timestamp"]) == datetime.fromisoformat(taken_at)
    assert body["timestamp"].endswith("Z")


async def test_an_old_snapshot_is_checked_afresh(ctx: Context, client: aiohttp.ClientSession) -> None:
    stale = ctx.now() - timedelta(minutes=2, seconds=1)
    document = json.dumps({"status": "unhealthy", "taken_at": stale.isoformat()})
    await ctx.redis.run("SET", SNAPSHOT_KEY, document)
    async with client.get("/health") as response:
        body = await response.json()
    assert (response.status, body["status"]) == (200, "healthy")
    assert ctx.now() - datetime.fromisoformat(body["timestamp"]) < timedelta(minutes=1)


async def test_many_who_ask_at_once_share_one_look(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "LOCAL_LIFETIME", timedelta(minutes=1))  # however long all of them take to ask
    async with open_context(settings) as ctx:
        snapshots = await asyncio.gather(*(get_health(ctx) for _ in range(50)))
        assert len({snapshot.taken_at for snapshot in snapshots}) == 1
        assert await get_health(ctx) == snapshots[0]


async def test_one_who_hangs_up_does_not_end_the_look_of_the_others(settings: Settings) -> None:
    async with open_context(settings) as ctx:
        first, second = (asyncio.create_task(get_health(ctx)) for _ in range(2))
        while ctx.local(service.LocalHealth).probing is None:  # noqa: ASYNC110  nothing announces it
            await asyncio.sleep(0)
        first.cancel()
        assert (await second).status is HealthStatus.HEALTHY


async def test_only_the_upstream_down_is_degraded(env: dict[str, str]) -> None:
    settings = Settings.from_env(env | {"ZENZEFI_TARGET_URL": f"http://127.0.0.1:{find_free_port()}"})
    async with open_context(settings) as ctx, run_app(ctx) as url:
        status, body = await _health(url)
    assert (status, body["status"]) == (200, "degraded")


async def test_redis_down_is_unhealthy(env: dict[str, str]) -> None:
    settings = Settings.from_env(env | {"REDIS_PORT": str(find_free_port())})
    async with open_context(settings) as ctx, run_app(ctx) as url:
        status, body = await _health(url)
    assert (status, body["status"]) == (503, "unhealthy")


async def test_the_database_gone_is_unhealthy(env: dict[str, str], fresh_database: str, cluster: Cluster) -> None:
    settings = Settings.from_env(env | {"POSTGRES_DB": fresh_database})
    async with open_context(settings) as ctx, run_app(ctx) as url:
        await cluster.drop(fresh_database)
        status, body = await _health(url)
    assert (status, body["status"]) == (503, "unhealthy")
