"""Filling a database with a dump by pg_restore, and telling the server's troubles from the backup's."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import asyncpg

from zenzefi.backups.connections import open_direct
from zenzefi.backups.errors import RestoreFailed
from zenzefi.backups.processes import Child, child_environment, find_program, running
from zenzefi.settings import Settings

# What pg_restore complains of when the server, and not the backup, is the trouble. libpq's own words are English, as
# its environment has it. The server's are in its own language where our login may not choose another, but the path of
# one of its files is the same in all. pg_restore itself runs out of memory where a damaged dump has a huge block.
_SERVER_TROUBLE = re.compile(
    r"\b(base|global|pg_wal|pg_tblspc)/\w+|could not extend file|No space left on device|Disk quota exceeded"
    r"|File too large|(ERROR|FATAL): +out of (shared )?memory|terminating connection|the database system is"
    r"|server closed the connection|connection to server|could not receive data from server|SSL SYSCALL error"
)


async def fill(settings: Settings, database: str, dump: AsyncGenerator[bytes, None]) -> str:
    """Restore a decrypted dump, which is closed at the end; return what pg_restore complained of.

    Complaints alone do not tell whether all is there: pg_restore of one version says to servers of another what they
    do not know. The proof tells. An error of the dump's source comes out here.

    Raises:
        RestoreFailed: the server has no room or went away, or pg_restore was killed, none of which the backup did.
        DatabaseUnavailable: it cannot be reached.
    """
    arguments = [str(find_program(settings, "pg_restore")), "--no-owner", "--no-password", f"--dbname={_dsn(database)}"]
    if settings.backup.postgres_user != settings.postgres_owner_user:
        arguments.append(f"--role={settings.postgres_owner_user}")
    async with aclosing(dump):
        environment = child_environment(settings, database=database)
        if await _may_choose_language(settings, database):
            environment["PGOPTIONS"] += " -c lc_messages=C"
        async with running(arguments, environment=environment, with_input=True) as child:
            with suppress(ConnectionError):  # it ended before its input did
                async for piece in dump:
                    await child.write(piece)
            await _finish(child)
            # It reads no further than it needs to. Whether all is what was stored shows at the end, as an error.
            async for _ in dump:
                pass
            return child.complaints


async def _finish(child: Child) -> None:
    code = await child.finish()
    if code < 0:  # by the kernel, for the memory that it took, or by somebody
        raise RestoreFailed(f"pg_restore was ended by signal {-code}. {child.complaints}".rstrip())
    if is_servers_trouble(child.complaints):
        raise RestoreFailed(f"The server could not take the restored data: {child.complaints}")


def is_servers_trouble(complaints: str) -> bool:
    """Whether the server could not do what it was asked to; then what was restored says nothing about the backup."""
    return _SERVER_TROUBLE.search(complaints) is not None


async def _may_choose_language(settings: Settings, database: str) -> bool:
    """Whether our login is a superuser, or was granted this parameter; who is neither, and asks, is not let in."""
    async with open_direct(settings, database=database) as connection:
        try:
            await connection.execute("SET lc_messages = 'C'")
        except asyncpg.InsufficientPrivilegeError:
            return False
    return True


def _dsn(database: str) -> str:
    """A name that libpq takes for nothing but a database's."""
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"
