"""/livez and /readyz of the internal port."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp.test_utils import TestClient, TestServer

from tests.support.servers import Cluster
from zenzefi.app import create_internal_app
from zenzefi.context import Context, open_context
from zenzefi.devstack.ports import find_free_port
from zenzefi.infra.migrations import expected_ids, migrate_down, migrate_up
from zenzefi.settings import Settings


@asynccontextmanager
async def _internal(settings: Settings) -> AsyncIterator[tuple[Context, TestClient[Any, Any]]]:
    async with open_context(settings) as ctx, TestClient(TestServer(create_internal_app(ctx))) as client:
        yield ctx, client


async def _readiness(client: TestClient[Any, Any]) -> tuple[int, dict[str, str]]:
    async with client.get("/readyz") as response:
        return response.status, (await response.json())["checks"]


async def test_a_process_with_all_it_needs_is_ready(settings: Settings) -> None:
    async with _internal(settings) as (_, client):
        assert await _readiness(client) == (
            200,
            {"database": "ok", "redis": "ok", "schema": "ok", "serving": "ok"},
        )
        async with client.get("/livez") as response:
            assert (response.status, await response.json()) == (200, {"status": "alive"})


async def test_a_draining_process_is_not_ready_and_alive(settings: Settings) -> None:
    async with _internal(settings) as (ctx, client):
        ctx.draining = True
        assert await _readiness(client) == (503, {"serving": "the process is draining"})
        async with client.get("/livez") as response:
            assert response.status == 200


async def test_a_schema_behind_is_not_ready_until_it_is_migrated(env: dict[str, str], fresh_database: str) -> None:
    settings = Settings.from_env(env | {"POSTGRES_DB": fresh_database})
    newest = expected_ids()[-1]
    assert await asyncio.to_thread(migrate_down, settings) == newest
    async with _internal(settings) as (_, client):
        status, checks = await _readiness(client)
        assert (status, checks["schema"]) == (503, f"not applied: {newest}")
        await asyncio.to_thread(migrate_up, settings)
        assert (await _readiness(client))[0] == 200


async def test_what_is_missing_is_named(env: dict[str, str], fresh_database: str, cluster: Cluster) -> None:
    lost = {"POSTGRES_DB": fresh_database, "REDIS_PORT": str(find_free_port())}
    async with _internal(Settings.from_env(env | lost)) as (_, client):
        await cluster.drop(fresh_database)
        status, checks = await _readiness(client)
        assert status == 503
        assert fresh_database in checks["database"]
        assert checks["redis"] not in ("", "ok")
        assert checks["schema"] not in ("", "ok")
        assert checks["serving"] == "ok"


async def test_the_public_port_has_neither(client: aiohttp.ClientSession) -> None:
    for path in ("/livez", "/readyz"):
        async with client.get(path) as response:
            assert response.status == 404
