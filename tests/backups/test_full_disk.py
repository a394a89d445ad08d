"""A server that cannot take what is restored says nothing about the backup: it is tried again when there is room."""

import resource
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from tests.backups.ballast import add_ballast
from tests.backups.scratch import scratch_names
from tests.support.servers import Cluster
from workers.jobs import backups as jobs
from zenzefi.backups import filling
from zenzefi.backups.connections import open_direct
from zenzefi.backups.errors import RestoreFailed
from zenzefi.backups.locks import exclusive_run
from zenzefi.backups.repository import open_repository
from zenzefi.backups.restoring import restore
from zenzefi.backups.verification import verify
from zenzefi.context import Context, open_context
from zenzefi.devstack.postgres import EmbeddedPostgres
from zenzefi.settings import Settings

_DATABASE = "zenzefi"
_LARGEST_FILE = 16 * 1024 * 1024  # one of the WAL, which the server cannot do without


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A PostgreSQL of the test's own."""
    server = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def _installed(server: EmbeddedPostgres, env: dict[str, str]) -> AsyncIterator[tuple[Context, Cluster]]:
    cluster = Cluster(
        host=server.host, port=server.port, user=server.superuser, password=server.password, run=uuid4().hex[:8]
    )
    await cluster.prepare()
    await cluster.clone(_DATABASE)
    async with open_context(Settings.from_env({**env, **cluster.settings_env(_DATABASE)})) as ctx:
        yield ctx, cluster


def _restart(server: EmbeddedPostgres, *, largest_file: int = resource.RLIM_INFINITY) -> None:
    """Have the server refuse to let a file grow beyond that, as it does on a disk where nothing is left."""
    server.stop()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, unlimited[1]))  # children inherit it
    try:
        server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


async def test_without_room_nothing_is_marked_and_the_next_run_verifies(
    server: EmbeddedPostgres, backup_env: dict[str, str]
) -> None:
    async with _installed(server, backup_env) as (ctx, cluster):
        await add_ballast(ctx.settings, megabytes=20)
        made = await jobs.back_up_database(ctx)
        _restart(server, largest_file=_LARGEST_FILE)

        with pytest.raises(RestoreFailed, match="could not extend file") as failure:
            await verify(ctx)
        with pytest.raises(RestoreFailed):
            await restore(ctx.settings, backup_id=made, swap=True)

        assert failure.value.exit_code == 1
        async with open_repository(ctx.storage, ctx.settings.backup) as repository:
            assert (await repository.get(made)).verification.at is None
        assert scratch_names(cluster, _DATABASE) == []
        async with exclusive_run(ctx):
            pass
        async with open_direct(ctx.settings) as connection:
            assert await connection.fetchval("SELECT count(*) FROM public.ballast") == 320

        _restart(server)
        assert await jobs.verify_backup(ctx) == made


@pytest.mark.parametrize(
    ("complaints", "is_the_servers"),
    [
        ("FEHLER:  konnte Datei »base/16385/16421« nicht erweitern: Kein Platz mehr verfügbar", True),
        ("ERREUR:  n'a pas pu écrire dans le fichier « pg_wal/xlogtemp.17 » : plus de place", True),
        ("pg_restore: error: server closed the connection unexpectedly", True),
        ("pg_restore: error: could not read from input file: end of file", False),
        ('ERROR:  duplicate key value violates unique constraint "users_pkey"', False),
    ],
)
def test_the_servers_trouble_is_known_in_any_language(complaints: str, is_the_servers: bool) -> None:
    assert filling.is_servers_trouble(complaints) is is_the_servers


async def test_a_login_that_may_choose_the_servers_language_does(backup_settings: Settings, cluster: Cluster) -> None:
    database, login = backup_settings.postgres_db, backup_settings.backup.postgres_user

    async def no_dump() -> AsyncGenerator[bytes, None]:
        yield b"PGDMP and nothing more"

    superuser = await cluster.connect()
    await superuser.execute(f"GRANT SET ON PARAMETER lc_messages TO {login}")
    try:
        assert "pg_restore: error" in await filling.fill(backup_settings, database, no_dump())
    finally:
        await superuser.execute(f"REVOKE SET ON PARAMETER lc_messages FROM {login}")
        await superuser.close()
