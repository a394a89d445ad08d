"""Ended sessions are kept for as long as SESSION_KEEP_DAYS says, and open ones for as long as they are open."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import TypeAlias
from uuid import UUID

import asyncpg
import pytest

from tests.support.plans import PLAN_MODES, plan_of
from tests.support.servers import Cluster
from workers.jobs import gateway as jobs
from zenzefi.context import Context, open_context
from zenzefi.gateway.queries import delete_ended_sessions
from zenzefi.settings import Settings

SuperUser: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
async def own(settings: Settings, fresh_database: str) -> AsyncIterator[Context]:
    async with open_context(replace(settings, postgres_db=fresh_database)) as ctx:
        yield ctx


@pytest.fixture
async def superuser(cluster: Cluster, fresh_database: str) -> AsyncIterator[SuperUser]:
    connection = await cluster.connect(fresh_database)
    await connection.execute("SET session_replication_role = replica")  # sessions without the tokens that they are of
    yield connection
    await connection.close()


async def add(superuser: SuperUser, *, count: int, begun_days_ago: float, ended_days_ago: float | None) -> None:
    await superuser.execute(
        """
        INSERT INTO gateway_sessions (id, token_id, device_hash, device_hint, started_at, last_activity, ended_at,
                                      request_count, bytes_in, bytes_out)
        SELECT
            (left(uuid7_floor(now() - $2 * interval '1 day')::text, 14) || '7000-8000-' || substr(md5(n::text), 1, 12))
            ::uuid,
            gen_random_uuid(), '', '', now() - $2 * interval '1 day', now() - $2 * interval '1 day',
            now() - $3 * interval '1 day', 1, 1, 1
        FROM generate_series(1, $1::integer) AS n
        """,
        count,
        begun_days_ago,
        ended_days_ago,
    )


async def test_sessions_that_ended_long_ago_are_deleted_and_no_others(own: Context, superuser: SuperUser) -> None:
    assert own.settings.retention.session_days == 90
    await add(superuser, count=2_500, begun_days_ago=100, ended_days_ago=90.1)
    await add(superuser, count=2, begun_days_ago=101, ended_days_ago=89.9)
    await add(superuser, count=3, begun_days_ago=102, ended_days_ago=None)
    await add(superuser, count=4, begun_days_ago=89.9, ended_days_ago=89.8)
    # Of several workers at once each deletes what the others have not.
    assert sum(await asyncio.gather(*(jobs.purge_sessions(own) for _ in range(3)))) == 2_500
    assert await jobs.purge_sessions(own) == 0
    assert await superuser.fetchval("SELECT count(*) FROM gateway_sessions") == 9


async def test_the_purge_reads_no_session_that_is_young(own: Context, superuser: SuperUser) -> None:
    await add(superuser, count=20_000, begun_days_ago=10, ended_days_ago=9)
    await superuser.execute("ANALYZE gateway_sessions")
    for mode in PLAN_MODES:
        async with superuser.transaction():
            plan = await plan_of(
                superuser,  # type: ignore[arg-type]
                mode,
                lambda: delete_ended_sessions(
                    superuser,  # type: ignore[arg-type]
                    ended_before=own.now() - timedelta(days=90),
                    begun_before=UUID(int=int((own.now() - timedelta(days=90)).timestamp() * 1000) << 80),
                    limit=1_000,
                ),
            )
        assert "Seq Scan" not in plan, plan
