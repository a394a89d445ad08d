"""Databases that a backup is restored into: made, and dropped, whatever happens."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from secrets import token_hex

import asyncpg
import structlog

from zenzefi.backups.connections import DirectConnection, open_direct
from zenzefi.backups.errors import RestoreFailed
from zenzefi.backups.properties import DatabaseProperties, find_properties, grant_privileges, quoted
from zenzefi.infra.migration_backend import APP_ROLE
from zenzefi.settings import Settings

_NAME_BYTES = 63  # PostgreSQL cuts off what is longer
_SUFFIX_BYTES = 24  # of the longest of our endings
_HASH_CHARS = 8
# PostgreSQL restarts where the disk is full, and only dropping this database makes room again.
_DROP_AGAIN_AFTER_S = (1.0, 4.0)

log = structlog.get_logger(__name__)


class Purpose(StrEnum):
    """What a scratch database is for; part of its name."""

    VERIFYING = "verifying"
    RESTORING = "restoring"


def base_name(settings: Settings) -> str:
    """What the names of all databases begin with that backups make beside the product's own."""
    name = settings.postgres_db
    room = _NAME_BYTES - _SUFFIX_BYTES
    if len(name.encode()) <= room:
        return name
    kept = name.encode()[: room - _HASH_CHARS - 1].decode(errors="ignore")
    return f"{kept}_{hashlib.sha256(name.encode()).hexdigest()[:_HASH_CHARS]}"


async def drop(connection: DirectConnection, name: str) -> None:
    """Drop a database, whoever is connected to it. Idempotent."""
    await connection.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")


async def drop_leftovers(settings: Settings, connection: DirectConnection) -> list[str]:
    """Drop the scratch databases of runs that were killed. The caller holds the backups' lock: no run needs them."""
    pattern = re.compile(rf"{re.escape(base_name(settings))}_({'|'.join(Purpose)})_[0-9a-f]{{12}}")
    names = [row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")]
    leftovers = [name for name in names if pattern.fullmatch(name)]
    for name in leftovers:
        await drop(connection, name)
        log.warning("backup_scratch_database_dropped", database=name)
    return leftovers


@asynccontextmanager
async def scratch_database(
    settings: Settings,
    purpose: Purpose,
    *,
    properties: DatabaseProperties | None,
    maintenance: str | None = None,
) -> AsyncIterator[str]:
    """Make an empty database, with the backup's properties, or else the live one's.

    At the end of the block it is dropped, unless it has another name by then. ``maintenance`` is the database to use
    meanwhile, else the product's. The caller holds the backups' lock.

    Raises:
        RestoreFailed: the login may not make one, or there is no room.
        DatabaseUnavailable: the server cannot be reached.
    """
    name = f"{base_name(settings)}_{purpose}_{token_hex(6)}"
    try:
        async with open_direct(settings, database=maintenance) as connection:
            await drop_leftovers(settings, connection)
            await _create(settings, connection, name, properties)
        yield name
    finally:
        await asyncio.shield(_drop_quietly(settings, name, maintenance))


async def _create(
    settings: Settings, connection: DirectConnection, name: str, properties: DatabaseProperties | None
) -> None:
    owner = settings.postgres_owner_user
    properties = properties or await find_properties(connection, settings.postgres_db)
    options = (
        properties.options(server_major=connection.get_server_version().major) if properties else "ENCODING 'UTF8'"
    )
    try:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", APP_ROLE):
            await connection.execute(f"CREATE ROLE {APP_ROLE} NOLOGIN")  # a new server, where nothing was migrated yet
        await connection.execute(f"CREATE DATABASE {quoted(name)} OWNER {quoted(owner)} TEMPLATE template0 {options}")
        if properties is not None:
            await grant_privileges(connection, name, properties)
    except (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedObjectError) as error:
        raise RestoreFailed(
            f"The login {settings.backup.postgres_user!r} cannot make a database for {owner!r}: {error}. "
            f"It needs CREATEDB, and to be {owner!r} or a member of it."
        ) from error
    except (
        asyncpg.WrongObjectTypeError,
        asyncpg.FeatureNotSupportedError,
        asyncpg.InvalidParameterValueError,
    ) as error:
        raise RestoreFailed(f"The server does not have the locale of the backup ({options}): {error}.") from error
    except (asyncpg.DiskFullError, asyncpg.PostgresIOError) as error:
        raise RestoreFailed(f"The server has no room for the database to restore into: {error}.") from error


async def _drop_quietly(settings: Settings, name: str, maintenance: str | None) -> None:
    for pause_s in (*_DROP_AGAIN_AFTER_S, None):
        try:
            async with open_direct(settings, database=maintenance) as connection:
                await drop(connection, name)
        except Exception as error:  # noqa: BLE001  # the next run drops it; the block's own error matters more
            log.warning("backup_scratch_database_left", database=name, error=repr(error), again_in_s=pause_s)
        else:
            return
        if pause_s is not None:
            await asyncio.sleep(pause_s)
