"""Connections of asyncpg's pool, lent one after another without giving them back to it each time.

The pool makes a task for each release and a timer for each acquire that may wait: together as much as a small query.
Here a connection that comes back in order stays at hand for the next. Now and then those at hand go back to the pool,
so that its own rules still hold: it closes what nobody needs, and what has run very many queries.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:
    Connection = asyncpg.pool.PoolConnectionProxy

ACQUIRE_TIMEOUT_S: Final = 3.0  # a request that waits longer for a connection is better told to come back
RELEASE_TIMEOUT_S: Final = 3.0  # what a connection gets to be done with a query that was given up; then it is closed
KEEP_S: Final = 30.0  # how long connections may stay at hand


class Lender:
    """Lends the connections of one pool; whoever has waited longest gets the next one."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        """Take an open pool, of which nobody else takes connections."""
        self._pool = pool
        self._most = pool.get_max_size()
        self._at_hand: list[Connection] = []  # used from its end, so that what is not needed stays unused
        self._taken = 0  # from the pool: lent, or at hand
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()  # for a connection, or a place in the pool
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._going_back: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> int:
        """How many open connections nobody uses."""
        return sum(map(_is_sound, self._at_hand)) + self._pool.get_idle_size()

    async def lend(self) -> Connection:
        """A connection, which must be taken back.

        Raises:
            TimeoutError: none was to be had in ACQUIRE_TIMEOUT_S.
            asyncpg.InterfaceError, OSError and others: as asyncpg, which may have to connect.
        """
        while self._at_hand:
            connection = self._at_hand.pop()
            if _is_sound(connection):
                return connection
            await self._give_back(connection)
        return await self._take_or_wait()

    async def take_back(self, connection: Connection, *, is_in_order: bool) -> None:
        """Lend a connection to the next one; the pool mends or closes it where something was wrong with it.

        Raises:
            TimeoutError: the query that was given up did not end in RELEASE_TIMEOUT_S; the connection was closed.
            asyncpg.InterfaceError, OSError and others: as asyncpg.
        """
        if is_in_order and not self._is_closed and _is_sound(connection):
            self._pass_on(connection)
        else:
            await self._give_back(connection)

    async def close(self) -> None:
        """Give all back to the pool, and from now on each that comes back."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._give_all_back()
        while self._waiting:
            self._pass_on(None)
        await asyncio.gather(*self._going_back, return_exceptions=True)

    async def _take_or_wait(self) -> Connection:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + ACQUIRE_TIMEOUT_S
        while True:
            if self._is_closed:
                raise asyncpg.InterfaceError("the pool of connections is closed")
            if self._at_hand:  # it came back between the word of a place in the pool and now, and the place is taken
                return self._at_hand.pop()
            if self._taken < self._most:
                return await self._take(max(until_s - loop.time(), 0))
            waiter: asyncio.Future[Connection | None] = loop.create_future()
            self._waiting.append(waiter)
            timer = loop.call_at(until_s, _expire, waiter)
            try:
                connection = await waiter
            except asyncio.CancelledError:
                if not waiter.cancelled() and waiter.exception() is None:
                    self._pass_on(waiter.result())  # it came in the very moment in which nobody wanted it any more
                raise
            finally:
                timer.cancel()
            if connection is not None:
                return connection

    async def _take(self, timeout_s: float) -> Connection:
        self._taken += 1
        try:
            return await self._pool.acquire(timeout=timeout_s)
        except BaseException:
            self._taken -= 1
            self._pass_on(None)
            raise

    def _pass_on(self, connection: Connection | None) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if connection is not None:
            self._at_hand.append(connection)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(KEEP_S, self._give_all_back)

    async def _give_back(self, connection: Connection) -> None:
        try:
            await self._pool.release(connection, timeout=RELEASE_TIMEOUT_S)
        finally:
            self._taken -= 1
            self._pass_on(None)

    def _give_all_back(self) -> None:
        self._timer = None
        connections, self._at_hand = self._at_hand, []
        for connection in connections:
            task = asyncio.get_running_loop().create_task(self._give_back(connection))
            self._going_back.add(task)
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._going_back.discard(task)
        if not task.cancelled():
            task.exception()  # a connection that broke while it was at hand is closed by then: there is nobody to tell


def _is_sound(connection: Connection) -> bool:
    try:
        return not (connection.is_closed() or connection.is_in_transaction())
    except asyncpg.InterfaceError:  # it broke, and the pool has taken it back by itself
        return False


def _expire(waiter: "asyncio.Future[Connection | None]") -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError("all connections are in use"))
