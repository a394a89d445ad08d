"""The networks of docker-compose.yml without Docker: network namespaces of the kernel, joined by bridges and cables.

One namespace stands for the machine, which has an address of the world outside; a container gets one of its own, with a
cable to each of its networks. Only a network that is not internal leads to the machine, and so to the outside.
"""

import ipaddress
import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from deploy.checks import debian
from deploy.checks.failures import CheckFailed
from deploy.checks.running import run
from deploy.checks.servers import Servers

# Of the range that is kept for documentation: nothing real has it.
OUTSIDE: Final = "203.0.113.1"
_TIMEOUT_S: Final = 30.0


class Networks:
    """Makes the namespaces, which end with the servers."""

    def __init__(self, servers: Servers, networks: Mapping[str, Any]) -> None:
        self._servers = servers
        self._ip = debian.ensure("iproute2", binary="ip")
        self._free = {name: _subnet(number, network) for number, (name, network) in enumerate(networks.items())}
        self._hosts = {name: subnet.hosts() for name, subnet in self._free.items()}
        self._gateways = {name: next(self._hosts[name]) for name in networks}
        self._is_internal = {name: bool((network or {}).get("internal")) for name, network in networks.items()}
        self._cables = itertools.count()
        # By container and network.
        self.addresses: dict[str, dict[str, str]] = {}
        self.machine = self._namespace("machine")
        lines = ["link set lo up", f"addr add {OUTSIDE}/32 dev lo"]
        for name in networks:
            bridge = self._bridge(name)
            lines += [f"link add {bridge} type bridge", f"link set {bridge} up"]
            if not self._is_internal[name]:
                lines.append(f"addr add {self._gateways[name]}/{self._free[name].prefixlen} dev {bridge}")
        self._configure(self.machine, lines)

    def join(self, container: str, networks: Sequence[str]) -> list[str]:
        """Make the container's namespace; returns the command before those that run in it."""
        namespace = self._namespace(container)
        mine = self.addresses[container] = {name: str(next(self._hosts[name])) for name in networks}
        outside, inside = list[str](), ["link set lo up"]
        for number, (name, address) in enumerate(mine.items()):
            cable = f"cable{next(self._cables)}"
            pair = f"link add {cable} type veth peer name eth{number} netns {namespace}"
            outside += [pair, f"link set {cable} master {self._bridge(name)} up"]
            prefix = self._free[name].prefixlen
            inside += [f"addr add {address}/{prefix} dev eth{number}", f"link set eth{number} up"]
        ways_out = [name for name in mine if not self._is_internal[name]]
        inside += [f"route add default via {self._gateways[name]}" for name in ways_out[:1]]
        self._configure(self.machine, outside)
        self._configure(namespace, inside)
        return enter(namespace)

    def hosts_file(self, container: str, services: Mapping[str, str]) -> str:
        """What DNS would say to the container: where the others are, by service, in the networks that it shares."""
        lines = ["127.0.0.1 localhost", f"{OUTSIDE} outside.example"]
        for other, service in services.items():
            shared = [
                self.addresses[other][name] for name in self.addresses[container] if name in self.addresses[other]
            ]
            lines += [f"{address} {service}" for address in shared[:1]]
        return "\n".join(lines) + "\n"

    def _namespace(self, name: str) -> int:
        """A namespace as long as a process that sleeps in it; returns that one's number."""
        child = self._servers.run(f"namespace-{name}", ["/usr/bin/unshare", "--net", "--", "/bin/sleep", "infinity"])
        mine, deadline = Path("/proc/self/ns/net").readlink(), time.monotonic() + _TIMEOUT_S
        while Path(f"/proc/{child.pid}/ns/net").readlink() == mine:
            if child.returncode is not None or time.monotonic() > deadline:
                raise CheckFailed(f"This machine makes no network namespace. {child.obituary()}")
            time.sleep(0.01)
        return child.pid

    def _bridge(self, network: str) -> str:
        return f"br{list(self._free).index(network)}"

    def _configure(self, namespace: int, lines: Sequence[str]) -> None:
        run([*enter(namespace), self._ip, "-batch", "-"], input_text="\n".join(lines), environment=debian.environment())


def enter(namespace: int) -> list[str]:
    """The command before those that run in a namespace."""
    return ["/usr/bin/nsenter", f"--net=/proc/{namespace}/ns/net", "--"]


def _subnet(number: int, network: Any) -> ipaddress.IPv4Network:
    configured = ((network or {}).get("ipam") or {}).get("config") or [{"subnet": f"10.77.{number}.0/24"}]
    return ipaddress.IPv4Network(configured[0]["subnet"])
