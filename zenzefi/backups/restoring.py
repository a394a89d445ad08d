"""Restoring: into a new database, proven, and put in the live one's place only when that is asked for.

The live database is never dropped: it keeps its rows under another name, and swapping that one in undoes it all.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
import structlog

from zenzefi.backups.connections import MAINTENANCE, DirectConnection, open_direct
from zenzefi.backups.errors import BackupDamaged, BackupNotFound, RestoreFailed
from zenzefi.backups.locks import held_lock
from zenzefi.backups.models import Manifest, Tell
from zenzefi.backups.properties import quoted, restore_session_settings
from zenzefi.backups.repository import Repository, open_repository
from zenzefi.backups.scratch import Purpose, base_name, scratch_database
from zenzefi.backups.verification import require_key, restore_and_compare, tell_nobody
from zenzefi.infra.storage import Storage
from zenzefi.settings import Settings

_RENAME_TRIES = 5
_END_SESSIONS_EVERY_S = 0.02
# Those without a role are the server's own. What else they are, only members of pg_read_all_stats are told.
_END_SESSIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ANY($1::text[]) AND usesysid IS NOT NULL"
)
_EXISTS = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """Where the restored rows are; ``replaced`` is the new name of the database that was live, if they took its place.

    ``swap_in(settings, name=replaced)`` undoes that.
    """

    database: str
    replaced: str | None
    is_live: bool


async def restore(
    settings: Settings, *, backup_id: str | None = None, swap: bool = False, progress: Tell | None = None
) -> Restored:
    """Restore a backup, by default the newest verified one, into a new database and compare all of it.

    Needs no live database: the server may be a new one. With ``swap`` the new one takes the live one's place.

    Raises:
        BackupNotFound: there is none of this name, or none that was verified.
        BackupDamaged: it is not what was backed up; nothing of it is left, and the live database is as it was.
        WrongKey, NoRepository, Locked, RestoreFailed, StorageError, DatabaseUnavailable: likewise.
    """
    backup = settings.backup
    async with open_repository(Storage(settings.s3), backup) as repository:
        if backup_id is None:
            manifest = await _find_newest_verified(repository)
        else:
            manifest = await repository.get(backup_id)
        require_key(settings, manifest)
        async with (
            held_lock(settings),
            scratch_database(
                settings, Purpose.RESTORING, properties=manifest.properties, maintenance=MAINTENANCE
            ) as scratch,
        ):
            await restore_and_compare(settings, repository, manifest, database=scratch, tell=progress or tell_nobody)
            if manifest.properties is not None:
                await restore_session_settings(settings, scratch, manifest.properties)
            name = await _keep(settings, scratch)
    log.info("backup_restored", backup=manifest.id, database=name)
    if swap:
        return await swap_in(settings, name=name)
    return Restored(database=name, replaced=None, is_live=False)


async def swap_in(settings: Settings, *, name: str) -> Restored:
    """Let a restored database, or one that was replaced, become the live one; the live one gets another name.

    Both happen in one transaction, and sessions of both databases are ended: clients connect again, to the new one.

    Raises:
        BackupNotFound: it is no database of ours, or is not there.
        RestoreFailed: sessions cannot be ended, or new ones kept coming; all is as it was.
    """
    pattern = rf"{re.escape(base_name(settings))}_(restored|before)_\d{{8}}t\d{{6}}z"
    live = settings.postgres_db
    async with open_direct(settings, database=MAINTENANCE) as connection:
        if not re.fullmatch(pattern, name) or not await connection.fetchval(_EXISTS, name):
            raise BackupNotFound(f"There is no database {name!r} that was restored or replaced here.")
        aside = await _free_name(settings, connection, "before") if await connection.fetchval(_EXISTS, live) else None
        renames = ([(live, aside)] if aside else []) + [(name, live)]
        async with _ending_sessions(settings, [live, name]):
            await _rename(connection, renames)
    log.info("database_swapped_in", database=name, replaced=aside)
    return Restored(database=live, replaced=aside, is_live=True)


async def _rename(connection: DirectConnection, renames: list[tuple[str, str]]) -> None:
    for attempt in range(1, _RENAME_TRIES + 1):
        try:
            async with connection.transaction():
                for old, new in renames:
                    await connection.execute(f"ALTER DATABASE {quoted(old)} RENAME TO {quoted(new)}")
        except asyncpg.ObjectInUseError as error:
            if attempt == _RENAME_TRIES:
                raise RestoreFailed(
                    f"Sessions keep the databases from being swapped: {error}. End them, or let the backups' login do "
                    "it (GRANT pg_signal_backend TO it), and swap again."
                ) from error
        except asyncpg.InsufficientPrivilegeError as error:
            raise RestoreFailed(f"The backups' login may not rename the databases: {error}.") from error
        else:
            return


@asynccontextmanager
async def _ending_sessions(settings: Settings, databases: list[str]) -> AsyncIterator[None]:
    """End all sessions of these databases, again and again: clients connect anew until the names have changed."""
    async with open_direct(settings, database=MAINTENANCE) as connection:
        ending = asyncio.ensure_future(_end_for_ever(connection, databases))
        try:
            yield
        finally:
            ending.cancel()
            with suppress(asyncio.CancelledError, asyncpg.PostgresError):
                await ending


async def _end_for_ever(connection: DirectConnection, databases: list[str]) -> None:
    while True:
        # A session that is just beginning has no role yet, and ending it is refused.
        with suppress(asyncpg.InsufficientPrivilegeError):
            await connection.execute(_END_SESSIONS, databases)
        await asyncio.sleep(_END_SESSIONS_EVERY_S)


async def _keep(settings: Settings, scratch: str) -> str:
    """Give a proven database a name that no run drops."""
    async with open_direct(settings, database=MAINTENANCE) as connection:
        name = await _free_name(settings, connection, "restored")
        async with _ending_sessions(settings, [scratch]):
            await _rename(connection, [(scratch, name)])
    return name


async def _free_name(settings: Settings, connection: DirectConnection, kind: str) -> str:
    """A name with the server's time; two within a second are a second apart."""
    while True:
        now: datetime = await connection.fetchval("SELECT clock_timestamp()")
        name = f"{base_name(settings)}_{kind}_{now.astimezone(UTC):%Y%m%dt%H%M%Sz}"
        if not await connection.fetchval(_EXISTS, name):
            return name
        await asyncio.sleep(0.1)


async def _find_newest_verified(repository: Repository) -> Manifest:
    for backup_id in await repository.ids():
        with suppress(BackupDamaged, BackupNotFound):  # an unreadable manifest must not be in the way of a good one
            manifest = await repository.get(backup_id)
            if manifest.is_verified:
                return manifest
    raise BackupNotFound("No backup is verified. Name the one to restore; it is compared before it can be used.")
