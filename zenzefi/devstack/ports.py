"""Ports of the loopback address: chosen once, written down, and chosen anew only when somebody else took one."""

import json
import socket
from collections.abc import Mapping
from pathlib import Path

from zenzefi.devstack.errors import PortTaken, StateBroken
from zenzefi.devstack.secretfile import write_private_file

LOOPBACK = "127.0.0.1"


def is_port_free(port: int, *, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on this port of this address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def find_free_port() -> int:
    """A port of the loopback address that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def require_free_port(port: int, *, server: str, fix: str, host: str = LOOPBACK) -> None:
    """Raise PortTaken when somebody listens there already: the server would only say so in its log."""
    if not is_port_free(port, host=host):
        raise PortTaken(f"Port {port} of {host} is in use, and {server} needs it. {fix}")


def recall_ports(path: Path, preferred: Mapping[str, int | None]) -> dict[str, int]:
    """The port of each name: the one that the file at `path` remembers, else the preferred one, if any, else a new one.

    One that somebody else listens on is passed over. What was chosen is written down.
    """
    known = _read(path)
    ports: dict[str, int] = {}
    for name, default in preferred.items():
        port = known.get(name, default)
        while port is None or port in ports.values() or not is_port_free(port):
            port = find_free_port()
        ports[name] = port
    if ports != known:
        write_private_file(path, json.dumps(ports, indent=2) + "\n")
    return ports


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
