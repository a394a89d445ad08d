"""What a database itself has comes back with it, even where nothing of it is left to look at."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.support.servers import PASSWORD, Cluster
from zenzefi.backups.connections import MAINTENANCE, open_direct
from zenzefi.backups.errors import BackupDamaged, RestoreFailed
from zenzefi.backups.models import Manifest
from zenzefi.backups.proof import differences, take_proof
from zenzefi.backups.properties import DatabaseProperties, Grant, find_properties
from zenzefi.backups.repository import Repository
from zenzefi.backups.restoring import Restored, restore
from zenzefi.backups.service import back_up
from zenzefi.backups.verification import verify
from zenzefi.context import Context, open_context
from zenzefi.infra.migrations import migrate_up
from zenzefi.settings import Settings

# Not that of the server's other databases.
_LOCALE = "LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'"


async def _make_anew(cluster: Cluster, settings: Settings) -> None:
    """Replace the test's database by one whose owner has thought about it."""
    name = settings.postgres_db
    await cluster.drop(name)
    superuser = await cluster.connect()
    for statement in (
        f"CREATE DATABASE {name} OWNER {cluster.owner} TEMPLATE template0 ENCODING 'UTF8' {_LOCALE}",
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {name} TO {cluster.app} WITH GRANT OPTION",
        f"ALTER DATABASE {name} CONNECTION LIMIT 77",
        f"ALTER DATABASE {name} SET search_path = public, \"Odd, 'Schema'\"",
        f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '1h'",
        f"ALTER ROLE {cluster.owner} IN DATABASE {name} SET work_mem = '8MB'",
    ):
        await superuser.execute(statement)
    await superuser.close()
    await asyncio.to_thread(migrate_up, settings)


async def _properties(settings: Settings) -> DatabaseProperties:
    async with open_direct(settings, database=MAINTENANCE) as connection:
        found = await find_properties(connection, settings.postgres_db)
    assert found is not None
    return found


async def test_a_lost_database_comes_back_with_its_locale_privileges_and_settings(
    backup_settings: Settings, cluster: Cluster
) -> None:
    settings = backup_settings
    await _make_anew(cluster, settings)
    had = await _properties(settings)
    assert (had.provider, had.connection_limit, [grant.role for grant in had.grants]) == ("c", 77, [cluster.app])
    async with open_context(settings) as ctx:
        made = await back_up(ctx)
        assert (await verify(ctx)).is_verified
    assert made == Manifest.from_json(made.to_json())
    await cluster.drop(settings.postgres_db)

    await restore(settings, backup_id=made.id, swap=True)

    assert await _properties(settings) == had
    async with open_direct(settings) as connection:
        assert differences(made.proof, await take_proof(connection)) == []


async def test_what_the_server_does_not_know_is_told(
    backup_ctx: Context, repository: Repository, cluster: Cluster
) -> None:
    settings, made = backup_ctx.settings, await back_up(backup_ctx)

    async def restore_as_if(**changes: Any) -> Restored:
        assert made.properties is not None
        manifest = replace(made, properties=replace(made.properties, **changes))
        key = repository.manifest_key(made.id)
        await repository.client.put_object(Bucket=repository.bucket, Key=key, Body=manifest.to_json())
        return await restore(settings, backup_id=made.id)

    with pytest.raises(RestoreFailed, match="tlh_KX"):
        await restore_as_if(provider="c", collate="tlh_KX.UTF-8", locale=None)

    document = json.loads(made.to_json())
    del document["properties"]  # as manifests of earlier versions are
    assert Manifest.from_json(json.dumps(document).encode()).properties is None

    grant = Grant(role="nobody_of_here", privilege="CONNECT", is_grantable=False)
    with capture_logs() as logs:
        restored = await restore_as_if(grants=(grant,))
    (line,) = (line for line in logs if line["event"] == "backup_database_property_not_restored")
    assert "nobody_of_here" in line["error"]
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="CONNECT"):
        await asyncpg.connect(
            host=cluster.host, port=cluster.port, user=cluster.app, password=PASSWORD, database=restored.database
        )
    await cluster.drop(restored.database)


async def test_a_forged_manifest_executes_nothing(backup_ctx: Context, repository: Repository) -> None:
    made = await back_up(backup_ctx)
    assert made.properties is not None
    forged = f'CONNECT ON DATABASE "{made.database}" TO PUBLIC; CREATE TABLE public.forged (); --'
    grants = (Grant(role=None, privilege=forged, is_grantable=False),)
    manifest = replace(made, properties=replace(made.properties, grants=grants))
    key = repository.manifest_key(made.id)
    await repository.client.put_object(Bucket=repository.bucket, Key=key, Body=manifest.to_json())

    with pytest.raises(BackupDamaged, match="is no privilege"):
        await verify(backup_ctx, backup_id=made.id)

    async with open_direct(backup_ctx.settings) as connection:
        assert await connection.fetchval("SELECT to_regclass('public.forged')") is None
