"""Redis or Valkey for the hot path: one server or a cluster, with a deadline and circuit breakers.

Every failure is RedisUnavailable: the callers have a way without.
"""

import hashlib
import time
from collections.abc import Callable, Sequence

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from zenzefi.infra.redis_cluster import RedisCluster
from zenzefi.infra.redis_node import Address, Argument, RedisNode, Reply
from zenzefi.infra.redis_subscription import Subscription
from zenzefi.settings import Settings

__all__ = [
    "Argument",
    "RedisClient",
    "Reply",
    "Script",
    "Subscription",
    "ping",
    "plain_client",
    "queue_client",
]


class Script:
    """A Lua script, known to the server by the SHA-1 of its text."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        """Take the script's text."""
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class RedisClient:
    """One process's way to Redis. Close it with ``aclose``."""

    def __init__(
        self,
        settings: Settings,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        deadline_s: float | None = None,
    ) -> None:
        """Take where the server is, and the deadline of a call if not REDIS_DEADLINE; nothing is connected yet."""
        deadline_s = settings.redis_deadline_s if deadline_s is None else deadline_s

        def make_node(address: Address) -> RedisNode:
            return RedisNode(settings, address, deadline_s=deadline_s, monotonic=monotonic)

        seed = (settings.redis_host, settings.redis_port)
        self._settings = settings
        self._servers: RedisNode | RedisCluster = (
            RedisCluster(seed, make_node, deadline_s=deadline_s) if settings.redis_cluster else make_node(seed)
        )
        self._subscriptions: list[Subscription] = []

    async def run(self, *command: Argument) -> Reply:
        """Send one command and return its reply (bytes, int, list or None). In a cluster its first argument is its key.

        Raises:
            RedisUnavailable: no answer in time, a broken connection, an open breaker, a server that cannot serve.
            ResponseError: the server refuses this very command, which is a defect of ours.
        """
        return await self._servers.call(command)

    async def eval(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Argument] = ()) -> Reply:
        """Run a script on keys of one hash tag; one that the server has forgotten is sent again.

        Raises:
            RedisUnavailable: as for ``run``.
            ResponseError: the script failed.
        """
        try:
            return await self.run("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self.run("EVAL", script.text, len(keys), *keys, *args)

    def subscribe(
        self,
        channel: str,
        on_message: Callable[[bytes], None],
        on_connect: Callable[[], None] | None = None,
    ) -> Subscription:
        """Listen to a channel for as long as the client is open, over any number of reconnections.

        ``on_connect`` runs after each (re)connection: messages may have been missed before it.
        """
        subscription = Subscription(self._settings, self._servers, channel, on_message, on_connect)
        self._subscriptions.append(subscription)
        return subscription

    async def aclose(self) -> None:
        """End the subscriptions and the connections."""
        for subscription in self._subscriptions:
            await subscription.aclose()
        await self._servers.aclose()


async def ping(client: RedisClient) -> float:
    """The seconds of one round trip.

    Raises:
        RedisUnavailable: as for ``RedisClient.run``.
    """
    started = time.perf_counter()
    await client.run("PING")
    return time.perf_counter() - started


def plain_client(settings: Settings) -> "Redis":
    """A client of redis-py for work off the hot path, with its usual timeouts; one node of a cluster."""
    return _make_plain(settings.redis_host, settings.redis_port, settings.redis_db, settings.redis_password)


def queue_client(settings: Settings) -> "Redis":
    """The same for the job queue's server."""
    return _make_plain(
        settings.queue_redis_host, settings.queue_redis_port, settings.queue_redis_db, settings.queue_redis_password
    )


def _make_plain(host: str, port: int, database: int, password: str) -> "Redis":
    return Redis(
        host=host, port=port, db=database, password=password or None, socket_connect_timeout=2, socket_timeout=5
    )
