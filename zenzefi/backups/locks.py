"""One run at a time: a session's advisory lock keeps others out, and a fence keeps out the one that lost the lock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from zenzefi.backups import queries
from zenzefi.backups.connections import MAINTENANCE, DirectConnection, open_direct
from zenzefi.backups.errors import Locked, Superseded
from zenzefi.context import Context
from zenzefi.settings import Settings

_LOCK_KEY = 0x7A6E7A62616B  # "znzbak": any constant that nothing else in the database uses


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What holds the lock, as far as it knows."""

    id: UUID
    ctx: Context

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        """Put manifests inside: no later run has begun, and none begins meanwhile. Locks the fence's row.

        A process that was stopped, and whose session ended meanwhile, still believes to hold the lock: advisory locks
        tell nobody that they are lost (Kleppmann, "How to do distributed locking", 2016).

        Raises:
            Superseded: a later run has begun.
        """
        async with self.ctx.transaction() as conn:
            if await queries.lock_fence(conn) != self.id:
                raise Superseded(
                    "This run lost its lock, and a later one has begun. Nothing of this one was published."
                )
            yield


@asynccontextmanager
async def exclusive_run(ctx: Context) -> AsyncIterator[Run]:
    """Be the only run on this database, on whatever machine the others are.

    Raises:
        Locked: another run holds the lock; the message says since when.
        DatabaseUnavailable: the database cannot be reached.
    """
    async with only_run(ctx.settings):
        run = Run(id=ctx.new_id(), ctx=ctx)
        async with ctx.transaction() as conn:
            await queries.update_fence(conn, run_id=run.id, now=ctx.now())
        yield run


@asynccontextmanager
async def only_run(settings: Settings) -> AsyncIterator[None]:
    """Hold the lock alone, for what publishes nothing; raises as `exclusive_run`."""
    async with open_direct(settings) as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK_KEY):
            raise Locked(await _describe_holder(connection))
        yield


@asynccontextmanager
async def held_lock(settings: Settings) -> AsyncIterator[None]:
    """As `only_run`; the lock is the live database's, and where there is none nobody else can run either."""
    async with open_direct(settings, database=MAINTENANCE) as connection:
        has_live = await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", settings.postgres_db
        )
    if not has_live:
        yield
        return
    async with only_run(settings):
        yield


async def _describe_holder(connection: DirectConnection) -> str:
    holder = await connection.fetchrow(
        "SELECT a.pid, a.client_addr::text AS address, a.backend_start "
        "FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE l.locktype = 'advisory' AND l.granted AND l.classid = $1 AND l.objid = $2 AND l.objsubid = 1 "
        "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        _LOCK_KEY >> 32,
        _LOCK_KEY & 0xFFFFFFFF,
    )
    if holder is None:
        return "It has just ended. Run this again."
    return (
        f"It runs from {holder['address'] or 'this machine'} since {holder['backend_start']:%Y-%m-%d %H:%M:%S} UTC "
        f"(PostgreSQL backend {holder['pid']}). Wait for it; if its process is gone for good, end its session: "
        f"SELECT pg_terminate_backend({holder['pid']})."
    )
