"""A cluster of Redis or Valkey: each command goes to the node that owns its key's slot.

Each node has a connection, a deadline and a circuit breaker of its own (``RedisNode``), so that a dead one costs only
those whose keys it holds. Who owns what is asked at the first call, and again when a node answers MOVED or not at all.
A command is sent again only where a node has said that it did not execute it, and all within the one deadline.
https://valkey.io/topics/cluster-spec/
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final, cast

import structlog
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ResponseError

from zenzefi.errors import RedisUnavailable
from zenzefi.infra.redis_node import Address, Argument, RedisNode, Reply, pack

MAX_HOPS: Final = 5  # a slot moves once; more than a few redirections in 50 ms are a quarrel among the nodes
# A script whose keys are half way between two nodes is told to try again; a key takes far less than this to move.
TRY_AGAIN_S: Final = 0.005
# A dead node is noticed by many calls at once, and its successor is elected a second or two later.
REFRESH_PAUSE_S: Final = 0.5

_SLOTS: Final = pack(("CLUSTER", "SLOTS"))
_KEYLESS: Final = frozenset({"PING", "PUBLISH", "TIME"})
_SCRIPTS: Final = frozenset({"EVAL", "EVALSHA"})  # their first key stands behind the script and the number of keys
_NOT_EXECUTED: Final = ("MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN")

log = structlog.get_logger(__name__)


def slot_of(command: tuple[Argument, ...]) -> int | None:
    """The slot of a command's (first) key; None for a command that any node can answer."""
    name = command[0]
    if name in _KEYLESS:
        return None
    key = command[3 if name in _SCRIPTS else 1]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


class RedisCluster:
    """One process's way to all nodes. Close it with ``aclose``."""

    def __init__(self, seed: Address, make_node: Callable[[Address], RedisNode], *, deadline_s: float) -> None:
        """Take one node's address (or a name of several), and how to reach a node."""
        self._seed = seed
        self._make_node = make_node
        self._deadline_s = deadline_s
        self._nodes: dict[Address, RedisNode] = {}
        self._members: list[Address] = []  # replicas, too
        self._turn = 0
        self._masters: list[RedisNode] = []
        self._owners: list[RedisNode | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._refreshing: asyncio.Task[None] | None = None
        self._refresh_at = 0.0  # loop time: not before
        self._retiring: set[asyncio.Task[None]] = set()

    async def call(self, command: tuple[Argument, ...]) -> Reply:
        """Send one command and return its reply.

        Raises:
            RedisUnavailable: the node that owns the key does not answer in time, or nobody knows which one it is.
            ResponseError: the node refuses this very command.
        """
        deadline = asyncio.get_running_loop().time() + self._deadline_s
        packed, slot = pack(command), slot_of(command)
        node = self._find_node(slot)
        refusal = None
        if node is not None:
            try:
                return await node.send(packed)
            except RedisUnavailable:
                self._refresh_soon()
                raise
            except ResponseError as error:
                if not str(error).startswith(_NOT_EXECUTED):
                    raise
                refusal = str(error)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._pursue(packed, slot, refusal)
        except TimeoutError:
            raise RedisUnavailable from None

    async def find(self) -> Address:
        """A node to listen at, another one each time.

        Raises:
            RedisUnavailable: no node is known.
        """
        if not self._members:
            await self._refresh()
        if not self._members:
            raise RedisUnavailable
        return self._take_turns()[0]

    def has(self, address: Address) -> bool:
        """Whether this is a node of the cluster."""
        return address in self._members

    async def aclose(self) -> None:
        """End all connections."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            with suppress(asyncio.CancelledError):
                await self._refreshing
        await asyncio.gather(*self._retiring, *(node.aclose() for node in self._nodes.values()))

    def _find_node(self, slot: int | None) -> RedisNode | None:
        if slot is not None:
            return self._owners[slot]
        return next((node for node in self._masters if node.may_answer), self._masters[0] if self._masters else None)

    async def _pursue(self, packed: bytes, slot: int | None, refusal: str | None) -> Reply:
        """Send a command, which no node has executed yet, to where the refusals point."""
        for _ in range(MAX_HOPS):
            node, asking = await self._follow(refusal, slot)
            try:
                return await node.send(packed, asking=asking)
            except ResponseError as error:
                if not str(error).startswith(_NOT_EXECUTED):
                    raise
                refusal = str(error)
        raise RedisUnavailable

    async def _follow(self, refusal: str | None, slot: int | None) -> tuple[RedisNode, bool]:
        """The node to send to next, and whether it has to be told that it was asked for by ASK."""
        kind, *words = (refusal or "").split(" ")
        if kind == "ASK":
            return self._reach(words[1]), True
        if kind == "MOVED":
            node = self._reach(words[1])
            self._owners[int(words[0])] = node
            self._refresh_soon()
            return node, False
        if kind == "TRYAGAIN":
            await asyncio.sleep(TRY_AGAIN_S)
        else:  # nobody knows the owner, or the one who was taken for it says that the slot has none
            if slot is not None:
                self._owners[slot] = None
            if asyncio.get_running_loop().time() < self._refresh_at and self._refreshing is None:
                raise RedisUnavailable
            await self._refresh()
        found = self._find_node(slot)
        if found is None:
            raise RedisUnavailable
        return found, False

    def _reach(self, place: str) -> RedisNode:
        host, _, port = place.rpartition(":")
        # Without a host it is the one that answered; all that is known of that one is how the cluster was entered.
        return self._node((host or self._seed[0], int(port)))

    def _node(self, address: Address) -> RedisNode:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = self._make_node(address)
        return node

    def _refresh_soon(self) -> None:
        """Ask for the owners again, beside the callers and not all the time."""
        loop = asyncio.get_running_loop()
        if self._refreshing is None and loop.time() >= self._refresh_at:
            self._refreshing = loop.create_task(self._ask_for_owners())

    async def _refresh(self) -> None:
        """Wait for the owners; who gives up waiting leaves the question to those who come later."""
        if self._refreshing is None:
            self._refreshing = asyncio.get_running_loop().create_task(self._ask_for_owners())
        await asyncio.wait((self._refreshing,))

    async def _ask_for_owners(self) -> None:
        try:
            for address in (*self._take_turns(), self._seed):
                with suppress(RedisUnavailable, ResponseError):
                    if self._adopt(await self._node(address).send(_SLOTS), address):
                        return
            log.warning("redis_cluster_unknown", asked=len(self._members) + 1)
        finally:
            self._refresh_at = asyncio.get_running_loop().time() + REFRESH_PAUSE_S
            self._refreshing = None

    def _take_turns(self) -> list[Address]:
        """All nodes, another one first each time: one that was cut off from the others goes on to tell what was."""
        self._turn += 1
        first = self._turn % max(1, len(self._members))
        return self._members[first:] + self._members[:first]

    def _adopt(self, reply: Reply, asked: Address) -> bool:
        """Take over what one node says of all; False when it knows nothing (it has left the cluster)."""
        owners: list[RedisNode | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        members: dict[Address, None] = {}
        masters: dict[Address, RedisNode] = {}
        for first, last, *servers in cast("list[tuple[int, int, *tuple[list[object], ...]]]", reply):
            addresses = list(_addresses(servers, asked))
            members.update(dict.fromkeys(addresses))
            if addresses:
                masters[addresses[0]] = node = self._node(addresses[0])
                owners[first : last + 1] = [node] * (last + 1 - first)
        if not masters:
            return False
        self._owners, self._masters = owners, list(masters.values())
        self._members = list(members)
        self._retire(address for address in [*self._nodes] if address not in members)
        return True

    def _retire(self, addresses: Iterable[Address]) -> None:
        for address in addresses:
            task = asyncio.get_running_loop().create_task(self._nodes.pop(address).retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)


def _addresses(servers: Iterable[list[object]], asked: Address) -> Iterator[Address]:
    """The master's address, and its replicas'; a node that does not know its own is where it was asked."""
    for host, port, *_ in servers:
        name = cast("bytes | None", host) or asked[0].encode()
        if name != b"?":
            yield name.decode(), cast(int, port)
