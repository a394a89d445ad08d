"""Restoring a stored backup by hand: decrypt, pg_restore, look."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from uuid import uuid4

from tests.support.servers import Cluster
from zenzefi.backups.connections import DirectConnection, open_direct
from zenzefi.backups.encryption import decrypt
from zenzefi.backups.models import Manifest
from zenzefi.backups.processes import child_environment, find_program, running
from zenzefi.backups.repository import Repository
from zenzefi.settings import Settings


@asynccontextmanager
async def restored(settings: Settings, repository: Repository, manifest: Manifest) -> AsyncIterator[DirectConnection]:
    """A connection to a new database that pg_restore filled; it is dropped at the end."""
    cluster, name = Cluster.inherited(), f"zenzefi_restored_{uuid4().hex[:8]}"
    superuser = await cluster.connect()
    try:
        await superuser.execute(f"CREATE DATABASE {name} TEMPLATE template0 OWNER {cluster.owner}")
        program = find_program(settings, "pg_restore")
        environment = child_environment(settings, database=name)
        arguments = [str(program), "--exit-on-error", "--dbname", name]
        async with (
            running(arguments, environment=environment, with_input=True) as child,
            aclosing(decrypt(repository.read_data(manifest), settings.backup.identity)) as dump,
        ):
            async for piece in dump:
                await child.write(piece)
            assert await child.finish() == 0, child.complaints
        async with open_direct(settings, database=name) as connection:
            yield connection
    finally:
        await superuser.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await superuser.close()
