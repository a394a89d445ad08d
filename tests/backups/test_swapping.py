"""Restoring while clients are at work: the rows of the backup take the live ones' place, and can be put back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from tests.backups.scratch import scratch_names
from tests.support.servers import PASSWORD, Cluster
from zenzefi.backups.connections import open_direct
from zenzefi.backups.errors import BackupDamaged, BackupNotFound
from zenzefi.backups.proof import differences, take_proof
from zenzefi.backups.repository import Repository
from zenzefi.backups.restoring import restore, swap_in
from zenzefi.backups.service import back_up
from zenzefi.backups.verification import verify
from zenzefi.context import Context
from zenzefi.settings import Settings

CLIENTS = 4


class Client:
    """An application that reads for ever, and connects again when its connection is gone."""

    def __init__(self, cluster: Cluster, database: str) -> None:
        self.cluster, self.database = cluster, database
        self.seen = -1
        self.read = asyncio.Event()

    async def run(self) -> None:
        while True:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
                connection = await asyncpg.connect(
                    host=self.cluster.host,
                    port=self.cluster.port,
                    user=self.cluster.app,
                    password=PASSWORD,
                    database=self.database,
                    timeout=5,
                )
                try:
                    while True:
                        self.seen = await connection.fetchval("SELECT count(*) FROM facts")
                        self.read.set()
                        await asyncio.sleep(0.01)
                finally:
                    connection.terminate()
            await asyncio.sleep(0.01)

    async def reads(self, rows: int) -> None:
        """Wait until it sees so many rows."""
        while self.seen != rows:
            self.read.clear()
            await self.read.wait()


@asynccontextmanager
async def _clients(cluster: Cluster, database: str) -> AsyncIterator[list[Client]]:
    clients = [Client(cluster, database) for _ in range(CLIENTS)]
    tasks = [asyncio.create_task(client.run()) for client in clients]
    try:
        yield clients
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _all_read(clients: list[Client], rows: int) -> None:
    async with asyncio.timeout(30):
        await asyncio.gather(*(client.reads(rows) for client in clients))


async def _change(settings: Settings, statement: str) -> None:
    async with open_direct(settings) as connection:
        await connection.execute(statement)


async def test_a_swap_under_clients_and_back(backup_ctx: Context, repository: Repository, cluster: Cluster) -> None:
    settings, live = backup_ctx.settings, backup_ctx.settings.postgres_db
    made = await back_up(backup_ctx)
    await verify(backup_ctx)  # and so facts has one row by now, which it had not in the backup
    await _change(settings, "INSERT INTO public.facts (name, document, at) VALUES ('later', '{}', now())")

    torn = repository.manifest_key("20990101T030000Z-0123456789ab")
    await repository.client.put_object(Bucket=repository.bucket, Key=torn, Body=b"{")

    beside = await restore(settings)
    async with _clients(cluster, live) as clients:
        await _all_read(clients, 2)  # nothing was swapped
        assert (beside.is_live, beside.replaced) == (False, None)

        swapped = await restore(settings, backup_id=made.id, swap=True)
        await _all_read(clients, 0)
        async with open_direct(settings) as connection:
            assert differences(made.proof, await take_proof(connection)) == []

        assert swapped.replaced is not None
        undone = await swap_in(settings, name=swapped.replaced)
        await _all_read(clients, 2)

    assert undone.replaced is not None
    assert scratch_names(cluster, live) == []
    for name in (beside.database, undone.replaced):
        await cluster.drop(name)


async def test_a_lost_database_comes_back(backup_ctx: Context, cluster: Cluster) -> None:
    settings = backup_ctx.settings
    made = await back_up(backup_ctx)
    await cluster.drop(settings.postgres_db)

    restored = await restore(settings, backup_id=made.id, swap=True)

    assert (restored.database, restored.replaced) == (settings.postgres_db, None)
    async with open_direct(settings) as connection:
        assert differences(made.proof, await take_proof(connection)) == []


async def test_what_is_damaged_or_not_ours_is_never_swapped_in(
    backup_ctx: Context, repository: Repository, cluster: Cluster
) -> None:
    settings = backup_ctx.settings
    made = await back_up(backup_ctx)
    data = b"".join([piece async for piece in repository.read_data(made)])
    await repository.client.put_object(Bucket=repository.bucket, Key=made.object_key, Body=data[:-1])

    with pytest.raises(BackupNotFound, match="No backup is verified"):
        await restore(settings, swap=True)
    with pytest.raises(BackupDamaged):
        await restore(settings, backup_id=made.id, swap=True)
    with pytest.raises(BackupNotFound):
        await swap_in(settings, name="postgres")

    assert scratch_names(cluster, settings.postgres_db) == []
    async with open_direct(settings) as connection:
        assert await connection.fetchval("SELECT count(*) FROM public.facts") == 1
