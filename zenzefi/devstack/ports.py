"""Ports of the loopback address: chosen once, written down, and chosen anew only when somebody else took one."""

import errno
import json
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path

from zenzefi.devstack.errors import PortTaken, StateBroken
from zenzefi.devstack.secretfile import write_private_file

LOOPBACK = "127.0.0.1"
_LEAST_PORT = 20_000
_PORTS_BELOW_EPHEMERAL = 32_768 - _LEAST_PORT  # net.ipv4.ip_local_port_range begins at 32768 unless somebody set it


def is_port_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address now."""
    return _try_port(LOOPBACK, port) is None


def find_free_port() -> int:
    """A port of the loopback address that nobody uses at this moment.

    Not one of the kernel's choice (binding port 0): those are the ones that it also gives to outgoing connections, so
    that one could be taken before its server listens, or while the server is down.
    """
    while True:
        port = _LEAST_PORT + secrets.randbelow(_PORTS_BELOW_EPHEMERAL)
        if is_port_free(port):
            return port


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
        while port is None or port in ports.values() or not is_port_free(port):
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
