"""BACKUP_POSTGRES_USER: a login of its own makes backups, verifies and restores them, and owns nothing afterwards."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.support.servers import PASSWORD, Cluster
from zenzefi.backups.connections import open_direct
from zenzefi.backups.errors import RestoreFailed
from zenzefi.backups.proof import differences, take_proof
from zenzefi.backups.restoring import restore
from zenzefi.backups.service import back_up
from zenzefi.backups.verification import verify
from zenzefi.context import open_context
from zenzefi.settings import Settings

_OWNERS = """
SELECT DISTINCT owner::regrole::text FROM (
    SELECT relowner FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT datdba FROM pg_database WHERE datname = current_database()
) AS owners (owner)
"""


@pytest.fixture
async def login(cluster: Cluster) -> AsyncIterator[str]:
    """What README says that such a login needs."""
    name = f"zenzefi_test_backup_{uuid4().hex[:8]}"
    superuser = await cluster.connect()
    await superuser.execute(f"CREATE ROLE {name} LOGIN CREATEDB PASSWORD '{PASSWORD}' IN ROLE {cluster.owner}")
    await superuser.execute(f"GRANT pg_signal_backend TO {name}")
    yield name
    await superuser.execute(f"DROP ROLE {name}")
    await superuser.close()


async def _alter(cluster: Cluster, statement: str) -> None:
    superuser = await cluster.connect()
    await superuser.execute(statement)
    await superuser.close()


async def test_another_login_does_it_all_and_what_is_restored_is_the_owners(
    backup_env: dict[str, str], cluster: Cluster, login: str
) -> None:
    env = {**backup_env, "BACKUP_POSTGRES_USER": login, "BACKUP_POSTGRES_PASSWORD": PASSWORD}
    async with open_context(Settings.from_env(env)) as ctx:
        made = await back_up(ctx)
        await _alter(cluster, f"ALTER ROLE {login} NOCREATEDB")
        with pytest.raises(RestoreFailed, match="It needs CREATEDB"):
            await verify(ctx)
        await _alter(cluster, f"ALTER ROLE {login} CREATEDB")
        assert (await verify(ctx)).is_verified

        restored = await restore(ctx.settings, swap=True)

        async with open_direct(ctx.settings) as connection:
            assert differences(made.proof, await take_proof(connection)) == []
            assert [row[0] for row in await connection.fetch(_OWNERS)] == [cluster.owner]
        async with ctx.connection() as conn:
            assert await conn.fetchval("SELECT count(*) FROM users") == 0, "the application may still read"
        assert restored.replaced is not None
        await cluster.drop(restored.replaced)
