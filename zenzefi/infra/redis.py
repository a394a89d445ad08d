"""Redis or Valkey for the hot path: micro-batched on one connection, with a deadline and a circuit breaker.

redis-py costs about 100 µs of CPU a call. Here the calls that meet in one turn of the event loop are packed by hiredis
and sent in one write, which costs a fifth of that. Every failure is RedisUnavailable: the callers have a way without.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias, cast

import structlog
from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.connection import Connection as RedisConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from zenzefi.errors import RedisUnavailable
from zenzefi.infra.breaker import CircuitBreaker
from zenzefi.settings import Settings

Argument: TypeAlias = str | bytes | int | float
Reply: TypeAlias = object

DEADLINE_S = 0.05  # the most that a dead Redis may add to a request
CONNECT_DEADLINE_S = 0.5  # beside the callers: none of them waits for longer than DEADLINE_S
BREAKER_FAILURES = 2  # each failed batch costs its callers the whole deadline
BREAKER_OPEN_S = 1.0
MAX_BATCH = 128  # replies of one batch are read in order; a longer one would make its last caller wait
# Answers of a server that lives but cannot serve: a replica, one that loads its data, one that is out of memory.
_NOT_SERVING = ("READONLY", "LOADING", "OOM", "MASTERDOWN", "MISCONF", "CLUSTERDOWN", "NOAUTH", "WRONGPASS", "BUSY")

log = structlog.get_logger(__name__)


class Script:
    """A Lua script, known to the server by the SHA-1 of its text."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        """Take the script's text."""
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _connection(settings: Settings, *, timeout_s: float | None) -> RedisConnection:
    return RedisConnection(
        host=settings.redis_host,
        port=settings.redis_port,
        db=settings.redis_db,
        password=settings.redis_password or None,
        socket_connect_timeout=CONNECT_DEADLINE_S,
        socket_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )


class RedisClient:
    """One process's way to Redis. Close it with ``aclose``."""

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Take where the server is; nothing is connected before the first call."""
        self._settings = settings
        self._connection = _connection(settings, timeout_s=None)
        self._breaker = CircuitBreaker(failure_threshold=BREAKER_FAILURES, open_s=BREAKER_OPEN_S, clock=monotonic)
        self._pending: list[tuple[bytes, asyncio.Future[Reply]]] = []
        self._flush: asyncio.Task[None] | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._subscriptions: list[Subscription] = []

    async def run(self, *command: Argument) -> Reply:
        """Send one command and return its reply (bytes, int, list or None).

        Raises:
            RedisUnavailable: no answer in DEADLINE_S, a broken connection, an open breaker, a server that cannot serve.
            ResponseError: the server refuses this very command, which is a defect of ours.
        """
        if not self._breaker.allow():
            raise RedisUnavailable
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        # hiredis' stub says tuple[x] where it means tuple[x, ...].
        self._pending.append((pack_command(command), future))  # type: ignore[arg-type]
        if self._flush is None:
            self._flush = asyncio.get_running_loop().create_task(self._flush_pending())
        return await future

    async def eval(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Argument] = ()) -> Reply:
        """Run a script; one that the server has forgotten is sent again.

        Raises:
            RedisUnavailable: as for ``run``.
            ResponseError: the script failed.
        """
        try:
            return await self.run("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self.run("EVAL", script.text, len(keys), *keys, *args)

    async def _flush_pending(self) -> None:
        """Send what is pending, batch by batch, until nothing is."""
        try:
            while self._pending:
                batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
                await self._exchange(batch)
        finally:
            self._flush = None

    async def _exchange(self, batch: list[tuple[bytes, "asyncio.Future[Reply]"]]) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                if not self._connection.is_connected or self._connecting is not None:
                    await self._connected()
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

    async def _connected(self) -> None:
        """Wait for the connection; who gives up waiting leaves the attempt to those who come later."""
        if self._connecting is None:
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
            log.warning("redis_not_connected", error=repr(error))
        finally:
            self._connecting = None

    async def _disconnect(self) -> None:
        with suppress(RedisError, OSError, TimeoutError):
            await self._connection.disconnect(nowait=True)

    async def _read(self) -> Reply:
        try:
            return cast(Reply, await self._connection.read_response(disconnect_on_error=False))
        except ResponseError as error:
            if str(error).startswith(_NOT_SERVING):
                raise ConnectionError(str(error)) from error
            return error

    @staticmethod
    def _settle(future: "asyncio.Future[Reply]", reply: Reply) -> None:
        if future.done():
            return  # its caller was cancelled meanwhile
        if isinstance(reply, Exception):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    async def _fail(self, batch: list[tuple[bytes, "asyncio.Future[Reply]"]], error: BaseException) -> None:
        """Fail the batch and all that queued behind it: nobody waits for two deadlines."""
        self._breaker.record_failure()
        log.warning("redis_unavailable", error=repr(error))
        waiting, self._pending = batch + self._pending, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(RedisUnavailable())
        if self._connecting is None:
            await self._disconnect()

    def subscribe(
        self,
        channel: str,
        on_message: Callable[[bytes], None],
        on_connect: Callable[[], None] | None = None,
    ) -> "Subscription":
        """Listen to a channel for as long as the client is open, over any number of reconnections.

        ``on_connect`` runs after each (re)connection: messages may have been missed before it.
        """
        subscription = Subscription(self._settings, channel, on_message, on_connect)
        self._subscriptions.append(subscription)
        return subscription

    async def aclose(self) -> None:
        """End the subscriptions and the connection."""
        for subscription in self._subscriptions:
            await subscription.aclose()
        for task in (self._flush, self._connecting):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await self._disconnect()


class Subscription:
    """One channel on one connection, restored for ever."""

    RETRY_S = 0.25
    PING_S = 2.0  # a peer that vanished without a FIN is noticed after this and one timeout

    def __init__(
        self,
        settings: Settings,
        channel: str,
        on_message: Callable[[bytes], None],
        on_connect: Callable[[], None] | None,
    ) -> None:
        self._settings = settings
        self._channel = channel
        self._on_message = on_message
        self._on_connect = on_connect
        self.connected = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._listen_for_ever())

    async def aclose(self) -> None:
        """Stop listening."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _listen_for_ever(self) -> None:
        while True:
            connection = _connection(self._settings, timeout_s=self.PING_S)
            try:
                await self._listen(connection)
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("redis_subscription_lost", channel=self._channel, error=repr(error))
            finally:
                self.connected.clear()
                with suppress(RedisError, OSError, TimeoutError):
                    await connection.disconnect(nowait=True)
            await asyncio.sleep(self.RETRY_S)

    async def _listen(self, connection: RedisConnection) -> None:
        await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_command("SUBSCRIBE", self._channel)
        asked = False
        while True:
            message = await connection.read_response(timeout=self.PING_S)
            if isinstance(message, list):
                asked = False
                self._dispatch(message)
            elif asked:
                raise TimeoutError(f"no answer to PING in {self.PING_S} s")
            else:
                asked = True
                await connection.send_command("PING", check_health=False)

    def _dispatch(self, message: list[object]) -> None:
        kind = message[0]
        if kind == b"subscribe":
            self.connected.set()
            if self._on_connect is not None:
                self._on_connect()
        elif kind == b"message":
            self._on_message(cast(bytes, message[2]))


async def ping(client: RedisClient) -> float:
    """The seconds of one round trip.

    Raises:
        RedisUnavailable: as for ``RedisClient.run``.
    """
    started = time.perf_counter()
    await client.run("PING")
    return time.perf_counter() - started


def plain_client(settings: Settings) -> "Redis":
    """A client of redis-py for work off the hot path (doctor, tests), with its usual timeouts."""
    return Redis(
        host=settings.redis_host,
        port=settings.redis_port,
        db=settings.redis_db,
        password=settings.redis_password or None,
        socket_connect_timeout=2,
        socket_timeout=5,
    )
