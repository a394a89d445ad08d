"""An installation with S3, behind the proxy of faults, and a month of its audit log that may be archived."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from tests.support.s3_faults import FaultyS3
from tests.support.servers import Cluster
from workers.jobs import audit as jobs
from zenzefi.audit import queries
from zenzefi.audit.models import Actor
from zenzefi.context import Context, open_context
from zenzefi.devstack.seaweedfs import EmbeddedSeaweedFS
from zenzefi.infra.ids import uuid7
from zenzefi.settings import Settings

ROWS = 40


@pytest.fixture
def archive_env(
    env: dict[str, str], fresh_database: str, faults: FaultyS3, seaweedfs: EmbeddedSeaweedFS
) -> dict[str, str]:
    """The variables of an empty installation with S3, behind the proxy of faults."""
    return {
        **env,
        "POSTGRES_DB": fresh_database,
        "S3_ENDPOINT_URL": faults.url,
        "S3_BUCKET": seaweedfs.bucket,
        "S3_ACCESS_KEY": seaweedfs.access_key,
        "S3_SECRET_KEY": seaweedfs.secret_key,
    }


@pytest.fixture
async def log(archive_env: dict[str, str]) -> AsyncIterator[Context]:
    """A context on it."""
    async with open_context(Settings.from_env(archive_env)) as ctx:
        yield ctx


@pytest.fixture
async def owner(cluster: Cluster, fresh_database: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """The owner of all tables."""
    connection = await cluster.connect(fresh_database)
    await connection.execute(f"SET ROLE {cluster.owner}")
    yield connection
    await connection.close()


@pytest.fixture
async def month(log: Context, owner: "asyncpg.Connection[asyncpg.Record]") -> date:
    """A month of more than a year ago, with rows that are sealed, and a row of today."""
    begin = (log.now() - timedelta(days=500)).replace(day=1)
    await write_month(log, owner, begin)
    await write(log, log.now())
    await jobs.seal_audit_log(log)
    return begin.date()


async def write_month(ctx: Context, owner: "asyncpg.Connection[asyncpg.Record]", begin: datetime) -> None:
    await owner.execute("SELECT create_month_partitions('audit_log', $1, 1)", begin)
    for number in range(ROWS):
        await write(ctx, begin + timedelta(hours=number))


async def write(ctx: Context, at: datetime) -> UUID:
    """A row as it would have been written then."""
    entry_id = uuid7(at.timestamp())
    async with ctx.transaction() as conn:
        await queries.insert_entry(
            conn,
            entry_id=entry_id,
            at=at,
            actor=replace(Actor.system(), ip="2001:db8::1", user_agent='a "quoted"\nagent, ü'),
            action="thing.change",
            resource_type="thing",
            resource_id="1",
            before=None,
            after={"nested": {"b": [1, None], "a": "ü"}},
        )
    return entry_id
