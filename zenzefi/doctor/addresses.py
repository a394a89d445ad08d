"""How far away a host is, by its name."""

import ipaddress

LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost")


def is_beside_us(host: str) -> bool:
    """Whether it is this machine: a loopback address, or the folder of a Unix socket."""
    address = _address(host)
    return host.startswith("/") or host in LOOPBACK_NAMES or (address is not None and address.is_loopback)


def is_private(host: str) -> bool:
    """Whether nobody outside can own the name: a private address, or a name without a dot, as containers have."""
    address = _address(host)
    if address is not None:
        return not address.is_global
    return is_beside_us(host) or "." not in host or host.endswith((".internal", ".local", ".svc", ".lan"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
