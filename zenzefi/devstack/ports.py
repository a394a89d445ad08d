"""Ports of the loopback address: chosen once, written down, and chosen anew only when somebody else took one."""

import errno
import json
import os
import secrets
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from zenzefi.devstack.errors import PortTaken, StateBroken
from zenzefi.devstack.secretfile import write_private_file

LOOPBACK = "127.0.0.1"
_LEAST_PORT = 20_000
_PORTS_BELOW_EPHEMERAL = 32_768 - _LEAST_PORT  # net.ipv4.ip_local_port_range begins at 32768 unless somebody set it
_RESERVED_FOR_S = 60.0  # a server that does not listen by then never will
_reservations: dict[int, tuple[int, float]] = {}  # port: descriptor of its sign, since when


def is_port_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address now."""
    return _try_port(LOOPBACK, port) is None


def find_free_port() -> int:
    """A port of the loopback address that nobody uses at this moment.

    Not one of the kernel's choice (binding port 0): those are the ones that it also gives to outgoing connections, so
    that one could be taken before its server listens, or while the server is down. Nor one that this or another process
    got from here within the last minute: its server may not listen yet. Nor one that was kept since, see keep_port().
    """
    while True:
        port = _LEAST_PORT + secrets.randbelow(_PORTS_BELOW_EPHEMERAL)
        if port not in _reservations and is_port_free(port) and _reserve(port):
            return port


def find_free_ports(count: int) -> int:
    """The first of so many ports in a row, for servers that count on from one: each is as from find_free_port()."""
    while True:
        first = find_free_port()
        others = range(first + 1, first + count)
        if others.stop <= _LEAST_PORT + _PORTS_BELOW_EPHEMERAL and all(
            port not in _reservations and is_port_free(port) and _reserve(port) for port in others
        ):
            return first


def keep_port(port: int) -> None:
    """Keep a port, whose server is about to go down, from others as long as a new one: it may be started again."""
    _reserve(port)


def require_free_port(port: int, *, server: str, fix: str, host: str = LOOPBACK) -> None:
    """Raise PortTaken when nobody can listen there now: the server would only say so in its log."""
    obstacle = _try_port(host, port)
    if obstacle is None:
        return
    if obstacle.errno == errno.EADDRINUSE:
        raise PortTaken(f"Port {port} of {host} is in use, and {server} needs it. {fix}")
    raise PortTaken(f"{server} cannot listen on port {port} of {host}: {obstacle.strerror}. {fix}")


def recall_ports(path: Path, names: Iterable[str]) -> dict[str, int]:
    """The port of each name, from the file at `path` where it is still free, else a new one, which is written down."""
    known = _read(path)
    ports: dict[str, int] = {}
    for name in names:
        port = known.get(name)
        if port is None or port in ports.values() or not is_port_free(port) or not _reserve(port):
            port = find_free_port()
        ports[name] = port
    if ports != known:
        write_private_file(path, json.dumps(ports, indent=2) + "\n")
    return ports


def _try_port(host: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _reserve(port: int) -> bool:
    """Tell the other processes that choose ports here that this one is taken; false when another one said so before.

    The sign is a socket of the abstract namespace, which belongs to the same network namespace as the port and vanishes
    with this process, however that ends.
    """
    now = time.monotonic()
    for earlier, (descriptor, since) in list(_reservations.items()):
        if now - since > _RESERVED_FOR_S:
            os.close(descriptor)
            del _reservations[earlier]
    if port in _reservations:
        _reservations[port] = _reservations[port][0], now
        return True
    with socket.socket(socket.AF_UNIX) as sign:
        try:
            sign.bind(f"\0zenzefi-port-{port}")
        except OSError:
            return False
        _reservations[port] = sign.detach(), now
    return True


def _read(path: Path) -> dict[str, int]:
    try:
        ports = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StateBroken(f"Cannot read {path}: {error}. Remove that file; new ports will be chosen.") from error
    if not isinstance(ports, dict) or not all(isinstance(port, int) and 0 < port < 65536 for port in ports.values()):
        raise StateBroken(f"{path} does not list ports. Remove that file; new ports will be chosen.")
    return ports
