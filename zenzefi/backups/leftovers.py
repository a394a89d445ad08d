"""The databases that restores leave beside the live one: named, so that nobody has to guess, and dropped by name."""

import re
from dataclasses import dataclass
from enum import StrEnum

import asyncpg
import structlog

from zenzefi.backups.connections import MAINTENANCE, DirectConnection, open_direct
from zenzefi.backups.errors import BackupNotFound, RestoreFailed
from zenzefi.backups.locks import held_lock
from zenzefi.backups.properties import quoted
from zenzefi.backups.scratch import Purpose, base_name
from zenzefi.settings import Settings

# A size takes the right to connect, which members of the owner have.
_DATABASES = "SELECT datname AS name, pg_database_size(oid) AS size_bytes FROM pg_database ORDER BY datname"

log = structlog.get_logger(__name__)


class LeftoverKind(StrEnum):
    """What a database beside the live one is."""

    RESTORED = "restored"
    """Proven equal to a backup, and not swapped in."""
    REPLACED = "replaced"
    """It was live until another took its place."""
    UNFINISHED = "unfinished"
    """Of a run that goes on, or that was killed: the next run drops it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A database that only backups made."""

    name: str
    kind: LeftoverKind
    size_bytes: int


async def list_leftovers(settings: Settings) -> list[Leftover]:
    """The databases beside the live one, by name. Needs no live database.

    Raises:
        DatabaseUnavailable: the server cannot be reached.
    """
    async with open_direct(settings, database=MAINTENANCE) as connection:
        return await _select(settings, connection)


async def drop_leftover(settings: Settings, *, name: str) -> Leftover:
    """Drop one of them, for good. Holds the backups' lock.

    Raises:
        BackupNotFound: it is no database of ours, or is not there.
        Locked: a run goes on, and it may be that one's.
        RestoreFailed: somebody is connected to it, or the login may not drop it.
    """
    async with held_lock(settings), open_direct(settings, database=MAINTENANCE) as connection:
        found = [leftover for leftover in await _select(settings, connection) if leftover.name == name]
        if not found:
            raise BackupNotFound(f"There is no database {name!r} that a restore left here.")
        # Whoever is connected to what a killed run left is of that run.
        force = " WITH (FORCE)" if found[0].kind is LeftoverKind.UNFINISHED else ""
        try:
            await connection.execute(f"DROP DATABASE {quoted(name)}{force}")
        except (asyncpg.ObjectInUseError, asyncpg.InsufficientPrivilegeError) as error:
            raise RestoreFailed(f"The database {name} cannot be dropped: {error}.") from error
    log.info("backup_leftover_dropped", database=name)
    return found[0]


async def _select(settings: Settings, connection: DirectConnection) -> list[Leftover]:
    rows = await connection.fetch(_DATABASES)
    return [
        Leftover(name=row["name"], kind=kind, size_bytes=row["size_bytes"])
        for row in rows
        if (kind := _kind_of(settings, row["name"])) is not None
    ]


def _kind_of(settings: Settings, name: str) -> LeftoverKind | None:
    patterns = {
        LeftoverKind.RESTORED: r"restored_\d{8}t\d{6}z",
        LeftoverKind.REPLACED: r"before_\d{8}t\d{6}z",
        LeftoverKind.UNFINISHED: rf"({'|'.join(Purpose)})_[0-9a-f]{{12}}",
    }
    base = re.escape(base_name(settings))
    return next((kind for kind, ending in patterns.items() if re.fullmatch(f"{base}_{ending}", name)), None)
