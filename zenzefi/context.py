"""The context: everything that a process shares among its requests and jobs, opened and closed in one place."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar
from uuid import UUID

import aiohttp
import structlog

from zenzefi.errors import DatabaseUnavailable
from zenzefi.infra.clock import Clock
from zenzefi.infra.db import Connection, Database, open_database
from zenzefi.infra.http import open_upstream, sample_upstream
from zenzefi.infra.ids import uuid7
from zenzefi.infra.jwt import JwtSigner
from zenzefi.infra.passwords import PasswordHasher
from zenzefi.infra.queue import JobQueue
from zenzefi.infra.redis import RedisClient
from zenzefi.infra.storage import Storage
from zenzefi.infra.tracing import open_tracing
from zenzefi.infra.vitals import sample_for_ever, watch_loop_lag
from zenzefi.settings import Settings

T = TypeVar("T")

CLOCK_SYNC_S = 20.0  # two clocks that drift 50 ppm apart differ by 1 ms after that

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Context:
    """One per process. ``draining`` turns True once the process is asked to stop.

    ``samplers`` are called each second to set the gauges that nobody counts along the way.
    """

    settings: Settings
    clock: Clock
    db: Database
    redis: RedisClient
    queue: JobQueue
    storage: Storage
    upstream: aiohttp.ClientSession
    passwords: PasswordHasher
    jwt: JwtSigner
    draining: bool = field(default=False)
    samplers: list[Callable[[], None]] = field(default_factory=list)
    _locals: dict[type, object] = field(default_factory=dict, init=False, repr=False)

    def now(self) -> datetime:
        """The present instant, UTC, by the database's clock."""
        return self.clock.now()

    def new_id(self) -> UUID:
        """A UUIDv7 (RFC 9562) by the database's clock."""
        return uuid7(self.clock.epoch_s())

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """A database connection for reads; see Database.connection."""
        return self.db.connection()

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """A database transaction; see Database.transaction."""
        return self.db.transaction()

    def local(self, kind: type[T], make: "Callable[[Context], T] | None" = None) -> T:
        """This process's one instance of ``kind``, made at the first call: where a slice keeps what it remembers."""
        instance = self._locals.get(kind)
        if not isinstance(instance, kind):
            instance = self._locals[kind] = kind() if make is None else make(self)
        return instance


@asynccontextmanager
async def open_context(settings: Settings) -> AsyncIterator[Context]:
    """Open all that a process needs; close it in the opposite order.

    Raises:
        DatabaseUnavailable: PostgreSQL cannot be reached now; Redis and the upstream may be away.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_tracing())
        database = await stack.enter_async_context(open_database(settings))
        clock = Clock()
        await clock.synchronise(database.read_time)
        stack.push_async_callback(_cancel, asyncio.get_running_loop().create_task(_keep_synchronised(clock, database)))
        redis = RedisClient(settings)
        stack.push_async_callback(redis.aclose)
        queue = JobQueue(settings)
        stack.push_async_callback(queue.aclose)
        passwords = PasswordHasher()
        stack.callback(passwords.close)
        upstream = await stack.enter_async_context(open_upstream(settings))
        samplers: list[Callable[[], None]] = [database.sample, partial(sample_upstream, upstream)]
        for work in (sample_for_ever(samplers), watch_loop_lag()):
            stack.push_async_callback(_cancel, asyncio.get_running_loop().create_task(work))
        yield Context(
            settings=settings,
            clock=clock,
            db=database,
            redis=redis,
            queue=queue,
            storage=Storage(settings.s3),
            upstream=upstream,
            passwords=passwords,
            jwt=JwtSigner(settings.secret_key, lifetime=timedelta(minutes=settings.access_token_expire_minutes)),
            samplers=samplers,
        )


async def _keep_synchronised(clock: Clock, database: Database) -> None:
    while True:
        await asyncio.sleep(CLOCK_SYNC_S)
        try:
            await clock.synchronise(database.read_time)
        except DatabaseUnavailable:
            log.warning("clock_not_synchronised")  # the last offset stays good to a millisecond a minute or so


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
