"""One server of Redis or Valkey: calls micro-batched on one connection, with a deadline and a circuit breaker.

redis-py costs about 100 µs of CPU a call. Here the calls that meet in one turn of the event loop are packed by hiredis
and sent in one write, which costs a fifth of that at most.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias, cast

import structlog
from hiredis import pack_command
from redis.asyncio.connection import Connection as RedisConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from zenzefi.errors import RedisUnavailable
from zenzefi.infra.breaker import CircuitBreaker
from zenzefi.infra.instruments import REDIS_CALLS, REDIS_DURATION
from zenzefi.settings import Settings

Address: TypeAlias = tuple[str, int]
Argument: TypeAlias = str | bytes | int | float
Reply: TypeAlias = object

CONNECT_DEADLINE_S = 0.5  # beside the callers: none of them waits for longer than the deadline
BREAKER_FAILURES = 2  # each failed batch costs its callers the whole deadline
BREAKER_OPEN_S = 1.0
_LEAST_GRACE_S = 0.002
MAX_BATCH = 128  # replies of one batch are read in order; a longer one would make its last caller wait
# From a server that takes so long for a batch, each round trip is what those behind wait for, and nothing else bounds
# how many come in its time: then more go at once.
SLOW_S = 0.01
MAX_SLOW_BATCH = 1024
# Answers of a server that lives but cannot serve: one that loads its data, one whose cluster has no majority. (That a
# slot of the cluster has no owner says nothing about the server.) redis-py knows a few such answers as classes.
_NOT_SERVING = (
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "CLUSTERDOWN The cluster",
    "NOAUTH",
    "WRONGPASS",
    "BUSY",
)
_NOT_WRITABLE = (ReadOnlyError, OutOfMemoryError)
_ASKING = b"*1\r\n$6\r\nASKING\r\n"
_ANSWERED, _FAILED, _NOT_TRIED = (REDIS_CALLS.labels(outcome) for outcome in ("answered", "failed", "not_tried"))
_DURATION = REDIS_DURATION.labels()

log = structlog.get_logger(__name__)

# None in place of the future where nobody waits for the reply.
_Call: TypeAlias = tuple[bytes, "asyncio.Future[Reply] | None"]


def pack(command: tuple[Argument, ...]) -> bytes:
    """The bytes of a command."""
    # hiredis' stub says tuple[x] where it means tuple[x, ...].
    return pack_command(command)  # type: ignore[arg-type, no-any-return]


def open_connection(settings: Settings, address: Address) -> RedisConnection:
    """A connection of redis-py's that never retries by itself; nothing is connected yet.

    Its own timeout is off: that one goes by asyncio.wait_for, which on Python 3.11 may swallow a task's cancellation.
    """
    host, port = address
    return RedisConnection(
        host=host,
        port=port,
        db=settings.redis_db,
        password=settings.redis_password or None,
        socket_connect_timeout=CONNECT_DEADLINE_S,
        socket_timeout=None,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )


class RedisNode:
    """One process's way to one server. Close it with ``aclose``."""

    def __init__(
        self,
        settings: Settings,
        address: Address,
        *,
        deadline_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take where the server is; nothing is connected before the first call."""
        self.address = address
        self._name = f"{address[0]}:{address[1]}"
        self._deadline_s = deadline_s
        self._connection = open_connection(settings, address)
        self._breaker = CircuitBreaker(failure_threshold=BREAKER_FAILURES, open_s=BREAKER_OPEN_S, clock=monotonic)
        self._pending: list[_Call] = []
        self._flush: asyncio.Task[None] | None = None
        self._connecting: asyncio.Task[None] | None = None

    @property
    def may_answer(self) -> bool:
        """Whether a call would be sent now, rather than refused by the circuit breaker."""
        return self._breaker.retry_after_s == 0.0

    def call(self, command: tuple[Argument, ...]) -> "asyncio.Future[Reply]":
        """As ``send``, for a command that is not packed yet."""
        return self.send(pack(command))

    def send(self, packed: bytes, *, asking: bool = False) -> "asyncio.Future[Reply]":
        """Send a command with the next batch; ``asking`` has a cluster's node serve a slot that it is about to get.

        Raises:
            RedisUnavailable: the breaker is open. The future raises it for no answer within the deadline, a broken
                connection, and a server that cannot serve; ResponseError, when the server refuses this very command.
        """
        if not self._breaker.allow():
            _NOT_TRIED.inc()
            raise RedisUnavailable
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        if asking:
            self._pending.append((_ASKING, None))
        self._pending.append((packed, future))
        if self._flush is None:
            self._flush = loop.create_task(self._flush_pending())
        return future

    async def find(self) -> Address:
        """Where to listen to channels."""
        return self.address

    def has(self, address: Address) -> bool:
        """Whether a channel can be listened to there."""
        return address == self.address

    async def aclose(self) -> None:
        """End the connection; what is under way fails."""
        for task in (self._flush, self._connecting):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await self._disconnect()

    async def retire(self) -> None:
        """As ``aclose``, but let what is under way come to its end, which the deadline bounds."""
        if self._flush is not None:
            await asyncio.wait((self._flush,))
        await self.aclose()

    async def _flush_pending(self) -> None:
        """Send what is pending, batch by batch, until nothing is."""
        size = MAX_BATCH
        try:
            while self._pending:
                batch, self._pending = self._pending[:size], self._pending[size:]
                started = time.perf_counter()
                await self._exchange(batch)
                size = MAX_SLOW_BATCH if time.perf_counter() - started > SLOW_S else MAX_BATCH
        finally:
            self._flush = None

    async def _exchange(self, batch: list[_Call]) -> None:
        started = time.perf_counter()
        limit, loop = asyncio.timeout(None), asyncio.get_running_loop()
        timer = loop.call_later(self._deadline_s, self._judge, limit, loop.time() + self._deadline_s)
        try:
            async with limit:
                if self._connecting is not None or not self._is_usable():
                    await self._connected()
                # From here on the server may have executed any of it: nothing is ever sent again.
                await self._connection.send_packed_command([packed for packed, _ in batch], check_health=False)
                for _, future in batch:
                    self._settle(future, await self._read())
        except (RedisError, OSError, TimeoutError) as error:
            await self._fail(batch, error)
        except asyncio.CancelledError:
            await self._fail(batch, ConnectionError("the client is closing"))
            raise
        else:
            self._breaker.record_success()
            _ANSWERED.inc(len(batch))
            _DURATION.observe(time.perf_counter() - started)
        finally:
            timer.cancel()

    def _judge(self, limit: asyncio.Timeout, due_s: float) -> None:
        """End the wait for replies, but not where it is the event loop that was late.

        Timers come before what has arrived meanwhile is read: a process that was kept from the processor for longer
        than the deadline would take the server for a broken one, and do without it what costs it even more.
        """
        now_s = asyncio.get_running_loop().time()
        limit.reschedule(now_s + min(max(now_s - due_s, _LEAST_GRACE_S), self._deadline_s))

    def _is_usable(self) -> bool:
        """Whether there is a connection, and the server has not closed it while nothing was asked: a restarted server
        costs no caller an error.
        """
        reader = self._connection._reader  # noqa: SLF001  redis-py's own question reads from the socket, for 20 µs
        return reader is not None and not reader.at_eof() and reader.exception() is None

    async def _connected(self) -> None:
        """Wait for the connection; who gives up waiting leaves the attempt to those who come later."""
        if self._connecting is None:
            await self._disconnect()
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        await asyncio.shield(self._connecting)
        if not self._connection.is_connected:
            raise ConnectionError("no connection")

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_DEADLINE_S):
                await self._connection.connect()  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError) as error:
            await self._disconnect()
            log.warning("redis_not_connected", server=self._name, error=repr(error))
        finally:
            self._connecting = None

    async def _disconnect(self) -> None:
        with suppress(RedisError, OSError, TimeoutError):
            await self._connection.disconnect(nowait=True)

    async def _read(self) -> Reply:
        try:
            return cast(Reply, await self._connection.read_response(disconnect_on_error=False))
        except _NOT_WRITABLE as error:
            raise ConnectionError(str(error)) from error
        except ResponseError as error:
            if str(error).startswith(_NOT_SERVING):
                raise ConnectionError(str(error)) from error
            return error

    @staticmethod
    def _settle(future: "asyncio.Future[Reply] | None", reply: Reply) -> None:
        if future is None or future.done():
            return  # its caller was cancelled meanwhile
        if isinstance(reply, Exception):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    async def _fail(self, batch: list[_Call], error: BaseException) -> None:
        """Fail the batch and all that queued behind it: nobody waits for two deadlines."""
        self._breaker.record_failure()
        log.warning("redis_unavailable", server=self._name, error=repr(error))
        waiting, self._pending = batch + self._pending, []
        _FAILED.inc(len(waiting))
        for _, future in waiting:
            if future is not None and not future.done():
                future.set_exception(RedisUnavailable())
        if self._connecting is None:
            await self._disconnect()
