"""PostgreSQL through asyncpg: the pool, the codecs, and the translation of lost connections into one error."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Final, ParamSpec, cast

import asyncpg

from zenzefi.errors import DatabaseUnavailable
from zenzefi.infra.instruments import DB_ACQUIRE_DURATION, DB_ACQUIRES, DB_CONNECTIONS, DB_MAX_CONNECTIONS
from zenzefi.infra.lending import Connection, Lender
from zenzefi.infra.metrics import Counter
from zenzefi.settings import Settings

__all__ = ("Connection", "Database", "after_commit", "open_database")

P = ParamSpec("P")

COMMAND_TIMEOUT_S = 10.0  # no query of ours is planned to take a tenth of that
CONNECT_TIMEOUT_S = 3.0
CLOSE_TIMEOUT_S = 3.0

# What asyncpg raises when the server, not the query, is the trouble.
_CONNECTION_TROUBLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what a backend that was terminated leaves behind in a pooled connection
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    OSError,
    asyncio.TimeoutError,
)

_LENT, _UNAVAILABLE, _BROKEN = (DB_ACQUIRES.labels(outcome) for outcome in ("lent", "unavailable", "broken"))
_ACQUIRED_AFTER: Final = DB_ACQUIRE_DURATION.labels()
# What waits for the transactions that are open now to be committed, by their connections.
_after_commit: Final[dict[Connection, list[Callable[[], None]]]] = {}


class _Loan(AbstractAsyncContextManager[Connection]):
    """A connection that is lent to one block; a class, because a generator would take as long as a small query."""

    __slots__ = ("_connection", "_lender")

    def __init__(self, lender: Lender) -> None:
        self._lender = lender

    async def __aenter__(self) -> Connection:
        asked_at = time.perf_counter()
        try:
            self._connection = await self._lender.lend()
        except BaseException as error:
            _raise_if_unavailable(error, _UNAVAILABLE)
            raise
        _ACQUIRED_AFTER.observe(time.perf_counter() - asked_at)
        _LENT.inc()
        return self._connection

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            await self._lender.take_back(self._connection, is_in_order=error is None)
        except BaseException as trouble:
            _raise_if_unavailable(trouble, _BROKEN)
            raise
        if error is not None:
            _raise_if_unavailable(error, _BROKEN)


def _raise_if_unavailable(error: BaseException | None, outcome: Counter) -> None:
    """Raise DatabaseUnavailable, and count it, when an error means that the server is the trouble."""
    # asyncpg's DataError is an InterfaceError, too, but it is a ValueError, and means a bad argument of ours.
    if isinstance(error, _CONNECTION_TROUBLE) and not isinstance(error, ValueError):
        outcome.inc()
        raise DatabaseUnavailable from error


class Database:
    """A pool of connections that heals itself; every trouble with the server is DatabaseUnavailable."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        """Take an open pool."""
        self._pool = pool
        self._lender = Lender(pool)

    def terminate(self) -> None:
        """Cut all connections; there will be none any more."""
        self._pool.terminate()

    async def close(self) -> None:
        """Close all connections, once they are given back.

        Raises:
            TimeoutError: they were not, in CLOSE_TIMEOUT_S.
        """
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await self._lender.close()
            await self._pool.close()

    def sample(self) -> None:
        """Set the gauges of the pool."""
        size, idle = self._pool.get_size(), self._lender.idle
        DB_CONNECTIONS.labels("idle").set(idle)
        DB_CONNECTIONS.labels("in_use").set(size - idle)
        DB_MAX_CONNECTIONS.labels().set(self._pool.get_max_size())

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """Lend a connection outside any transaction, for reads.

        Raises:
            DatabaseUnavailable: no connection in lending.ACQUIRE_TIMEOUT_S, or it broke while it was lent.
        """
        return _Loan(self._lender)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside a transaction: committed at the end, rolled back by any exception.

        Raises:
            DatabaseUnavailable: as for ``connection``. When the connection breaks during COMMIT nobody here can know
                whether it took effect; an Idempotency-Key makes the retry safe.
        """
        async with self.connection() as connection:
            waiting = _after_commit[connection] = []
            try:
                async with connection.transaction():
                    yield connection
            finally:
                del _after_commit[connection]
        for act in waiting:
            act()

    async def read_time(self) -> datetime:
        """The server's clock."""
        async with self.connection() as connection:
            return cast(datetime, await connection.fetchval("SELECT clock_timestamp()"))


def after_commit(connection: Connection, act: Callable[P, None], /, *arguments: P.args, **keywords: P.kwargs) -> None:
    """Have something counted once the transaction of ``Database.transaction`` is committed, and never if it is not.

    On a connection without such a transaction it is done at once.
    """
    waiting = _after_commit.get(connection)
    if waiting is None:
        act(*arguments, **keywords)
    else:
        waiting.append(partial(act, *arguments, **keywords))


async def _prepare(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


async def _keep_session(connection: Any) -> None:
    """Nothing to reset: no code of ours sets session state, and the round trip of RESET ALL costs more than it buys."""


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """Open the pool and close it at the end.

    Raises:
        DatabaseUnavailable: the server cannot be reached or refuses the login; the message says which server.
    """
    address = f"{settings.postgres_server}:{settings.postgres_port}/{settings.postgres_db}"
    try:
        pool = await asyncpg.create_pool(
            host=settings.postgres_server,
            port=settings.postgres_port,
            user=settings.postgres_user,
            password=settings.postgres_password,
            database=settings.postgres_db,
            min_size=1,
            max_size=settings.postgres_pool_size,
            statement_cache_size=settings.postgres_statement_cache,
            command_timeout=COMMAND_TIMEOUT_S,
            timeout=CONNECT_TIMEOUT_S,
            init=_prepare,
            reset=_keep_session,
        )
    except _CONNECTION_TROUBLE as error:
        reason = str(error) or "no answer in time"
        raise DatabaseUnavailable(
            f"PostgreSQL at {address} refused user {settings.postgres_user!r} or cannot be reached ({reason}). "
            "Check POSTGRES_SERVER, POSTGRES_PORT, POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB."
        ) from error
    assert pool is not None
    database = Database(pool)
    try:
        yield database
    finally:
        try:
            await database.close()
        except TimeoutError:
            database.terminate()
