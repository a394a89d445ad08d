"""A real cluster of Valkey for the tests: three nodes without replicas, which share all slots among them."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis as redis_py
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from zenzefi.devstack.ports import find_free_port
from zenzefi.devstack.secretfile import write_private_file
from zenzefi.devstack.valkey import EmbeddedValkey

NODES = 3
PASSWORD = "cluster-test-password"
AGREED_TIMEOUT_S = 60.0
NODE_TIMEOUT_MS = 5_000  # nodes of a machine that stood still for a while must not take each other for dead


class ValkeyCluster:
    """The nodes, and what an operator does with them."""

    def __init__(self, directory: Path) -> None:
        # By default the port + 10000, which may be one of those that the kernel gives to outgoing connections.
        self._bus_ports = [find_free_port() for _ in range(NODES)]
        self.nodes = [_make_node(directory / str(number), port) for number, port in enumerate(self._bus_ports)]
        self._clients = [
            redis_py.Redis(host=node.host, port=node.port, password=PASSWORD, socket_timeout=5) for node in self.nodes
        ]

    @property
    def env(self) -> dict[str, str]:
        """Where it is, as variables."""
        first = self.nodes[0]
        return {
            "REDIS_CLUSTER": "true",
            "REDIS_HOST": first.host,
            "REDIS_PORT": str(first.port),
            "REDIS_DB": "0",
            "REDIS_PASSWORD": PASSWORD,
        }

    def start(self) -> None:
        """Start the nodes, introduce them to each other, and wait until all of them agree."""
        for node in self.nodes:
            node.start()
        for number in range(NODES):
            first = number * REDIS_CLUSTER_HASH_SLOTS // NODES
            last = (number + 1) * REDIS_CLUSTER_HASH_SLOTS // NODES - 1
            self.ask(number, "CLUSTER", "ADDSLOTSRANGE", first, last)
            self.ask(number, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node, bus_port in list(zip(self.nodes, self._bus_ports, strict=True))[1:]:
            self.ask(0, "CLUSTER", "MEET", node.host, node.port, bus_port)
        self.wait_until_agreed()

    def wait_until_agreed(self) -> None:
        """Wait until every node knows who owns each slot, and takes the others for alive."""
        deadline = time.monotonic() + AGREED_TIMEOUT_S
        while not all(self._is_content(number) for number in range(NODES)):
            assert time.monotonic() < deadline, [self.ask(number, "CLUSTER NODES") for number in range(NODES)]
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop all nodes."""
        for client in self._clients:
            client.close()
        for node in self.nodes:
            node.stop()

    def ask(self, number: int, *command: str | int) -> Any:
        """Send a command to one node."""
        return self._clients[number].execute_command(*command)  # type: ignore[no-untyped-call]

    def client(self, number: int) -> "redis_py.Redis":
        """A client of one node."""
        return self._clients[number]

    def owner(self, key: str) -> int:
        """Which node holds a key, by number, and by its own word."""
        slot = key_slot(key.encode())
        for number in range(NODES):
            if any(first <= slot <= last for first, last in self._slots(number)):
                return number
        raise AssertionError(f"nobody owns slot {slot}")

    def tag_on(self, number: int) -> str:
        """A hash tag whose keys a node holds, another one each time."""
        while True:
            tag = os.urandom(8).hex()
            if self.owner(f"{{{tag}}}") == number:
                return tag

    def move_slot(self, key: str, target: int, *, pause_s: float = 0.0) -> None:
        """Move a key's slot to another node, key by key, while everything goes on; `pause_s` passes after each step."""
        slot, source = key_slot(key.encode()), self.owner(key)
        identities = [self.ask(number, "CLUSTER", "MYID") for number in range(NODES)]
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", identities[source])
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", identities[target])
        time.sleep(pause_s)
        place = (self.nodes[target].host, self.nodes[target].port)
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1):
            self.ask(source, "MIGRATE", *place, "", 0, 5000, "AUTH", PASSWORD, "KEYS", *keys)
            time.sleep(pause_s)
        for number in (target, source, *({0, 1, 2} - {target, source})):
            self.ask(number, "CLUSTER", "SETSLOT", slot, "NODE", identities[target])

    def kill(self, number: int) -> None:
        """kill -9 of a node."""
        os.kill(self.nodes[number].child.pid, signal.SIGKILL)
        self.nodes[number].stop()

    def revive(self) -> None:
        """Start killed nodes again, with their slots and none of their keys, and wait until all agree."""
        for node in self.nodes:
            if node.child.returncode is not None:
                node.start()
        self.wait_until_agreed()

    @contextmanager
    def frozen(self, number: int) -> Iterator[None]:
        """Stop a node in its tracks: its connections stay open and nobody answers."""
        pid = self.nodes[number].child.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def _is_content(self, number: int) -> bool:
        with contextlib.suppress(redis_py.ConnectionError):
            info = self.ask(number, "CLUSTER INFO")
            nodes = self.ask(number, "CLUSTER NODES")
            return (
                info["cluster_state"] == "ok"
                and int(info["cluster_slots_ok"]) == REDIS_CLUSTER_HASH_SLOTS
                and len(nodes) == NODES
                and not any("fail" in node["flags"] for node in nodes.values())
                and all(node["connected"] for node in nodes.values())  # else what is published is lost on the way
            )
        return False

    def _slots(self, number: int) -> list[tuple[int, int]]:
        for node in self.ask(number, "CLUSTER NODES").values():
            if "myself" in node["flags"]:
                return [(int(slots[0]), int(slots[-1])) for slots in node["slots"]]
        return []


def _make_node(directory: Path, bus_port: int) -> EmbeddedValkey:
    directory.mkdir(mode=0o700, parents=True)
    write_private_file(directory / "password", PASSWORD)
    settings = {
        "cluster-enabled": "yes",
        "cluster-port": str(bus_port),
        "cluster-node-timeout": str(NODE_TIMEOUT_MS),
        "cluster-require-full-coverage": "no",
    }
    return EmbeddedValkey(directory, append_only=False, settings=settings)


@contextmanager
def valkey_cluster(directory: Path) -> Iterator[ValkeyCluster]:
    """A running cluster."""
    cluster = ValkeyCluster(directory)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
