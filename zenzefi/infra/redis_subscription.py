"""Listening to one channel of Redis or Valkey, over any number of reconnections."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

import structlog
from redis.asyncio.connection import Connection as RedisConnection
from redis.exceptions import RedisError

from zenzefi.errors import RedisUnavailable
from zenzefi.infra.redis_node import Address, open_connection
from zenzefi.settings import Settings

log = structlog.get_logger(__name__)


class Stations(Protocol):
    """Where a channel can be listened to: the one server, or any node of a cluster, which tells all the others."""

    async def find(self) -> Address:
        """A server to try next; raises RedisUnavailable when none is known."""
        ...

    def has(self, address: Address) -> bool:
        """Whether what is published is still heard there."""
        ...


class Subscription:
    """One channel on one connection, restored for ever."""

    RETRY_S = 0.25
    PING_S = 2.0  # a peer that vanished without a FIN is noticed after this and one timeout

    def __init__(
        self,
        settings: Settings,
        stations: Stations,
        channel: str,
        on_message: Callable[[bytes], None],
        on_connect: Callable[[], None] | None,
    ) -> None:
        self._settings = settings
        self._stations = stations
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
            try:
                address = await self._stations.find()
                await self._listen_at(address)
            except (RedisUnavailable, RedisError, OSError, TimeoutError) as error:
                log.warning("redis_subscription_lost", channel=self._channel, error=repr(error))
            finally:
                self.connected.clear()
            await asyncio.sleep(self.RETRY_S)

    async def _listen_at(self, address: Address) -> None:
        connection = open_connection(self._settings, address)
        try:
            async with asyncio.timeout(self.PING_S):
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command("SUBSCRIBE", self._channel)
            await self._listen(connection, address)
        finally:
            with suppress(RedisError, OSError, TimeoutError):
                await connection.disconnect(nowait=True)

    async def _listen(self, connection: RedisConnection, address: Address) -> None:
        asked = False
        while self._stations.has(address):
            message = await connection.read_response(timeout=self.PING_S)
            if isinstance(message, list):
                asked = False
                self._dispatch(message)
            elif asked:
                raise TimeoutError(f"no answer to PING in {self.PING_S} s")
            else:
                asked = True
                async with asyncio.timeout(self.PING_S):
                    await connection.send_command("PING", check_health=False)
        raise ConnectionError("this node has left the cluster")

    def _dispatch(self, message: list[object]) -> None:
        kind = message[0]
        if kind == b"subscribe":
            self.connected.set()
            if self._on_connect is not None:
                self._on_connect()
        elif kind == b"message":
            self._on_message(cast(bytes, message[2]))
