"""Debian's pebble: an ACME server for tests on the loopback address, with a DNS server to which every name is here."""

import json
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.checks import debian
from deploy.checks.nginx_servers import make_certificate
from deploy.checks.servers import Servers
from zenzefi.devstack.ports import LOOPBACK, find_free_port

_LIFE_S: Final = 90 * 86_400
_TIMEOUT_S: Final = 60.0
_MODES: Final[Mapping[str, str]] = {
    "PEBBLE_VA_NOSLEEP": "1",
    # By default one in twenty is refused, and a client that is refused twice in a row gives up.
    "PEBBLE_WFE_NONCEREJECT": "0",
    "PEBBLE_AUTHZREUSE": "0",  # each certificate is to be proven for
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pebble:
    """A running pebble; `ca` is what its own TLS is to be trusted by."""

    directory: str
    management: str
    ca: Path

    def root(self) -> str:
        """The certificate that it signs by, which is another at each start."""
        context = ssl.create_default_context(cafile=str(self.ca))
        with urllib.request.urlopen(f"{self.management}/roots/0", timeout=10, context=context) as answer:  # noqa: S310
            return str(answer.read().decode("ascii"))


def run_pebble(servers: Servers, *, http_port: int) -> Pebble:
    """Start it; for proofs it asks port `http_port` of the names' addresses."""
    programs = [debian.ensure("pebble", binary=name) for name in ("pebble", "pebble-challtestsrv")]
    ca = make_certificate(servers.folder / "pebble.pem")
    ports = {name: find_free_port() for name in ("acme", "management", "dns", "dns-management")}
    config = servers.folder / "pebble.json"
    settings = {
        "listenAddress": f"{LOOPBACK}:{ports['acme']}",
        "managementListenAddress": f"{LOOPBACK}:{ports['management']}",
        "certificate": str(ca),
        "privateKey": str(ca),
        "httpPort": http_port,
        "tlsPort": 9,
        "certificateValidityPeriod": _LIFE_S,
    }
    config.write_text(json.dumps({"pebble": settings}), encoding="utf-8")
    dns = f"{LOOPBACK}:{ports['dns']}"
    listen = ["-dns01", dns, "-management", f"{LOOPBACK}:{ports['dns-management']}"]
    nothing_else = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]
    servers.run("pebble-dns", [programs[1], *listen, *nothing_else, "-defaultIPv4", LOOPBACK])
    child = servers.run("pebble", [programs[0], "-config", config, "-dnsserver", dns], environment=_MODES)
    pebble = Pebble(
        directory=f"https://localhost:{ports['acme']}/dir", management=f"https://localhost:{ports['management']}", ca=ca
    )
    child.wait_until(lambda: _answers(pebble), timeout_s=_TIMEOUT_S)
    return pebble


def _answers(pebble: Pebble) -> bool:
    try:
        return bool(pebble.root())
    except OSError:
        return False
