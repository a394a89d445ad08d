"""The client's address: the peer's, or what trusted proxies say of it."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, NamedTuple

from aiohttp import web
from multidict import MultiMapping

from zenzefi.web.keys import CTX

# Of an address with its zone. What is longer is a forgery, as long as a head may be, and is not to be remembered.
_LONGEST_ADDRESS: Final = 64


class Client(NamedTuple):
    """Who sent a request."""

    address: IPv4Address | IPv6Address | None
    text: str | None
    is_behind_proxy: bool  # the peer itself is one of TRUSTED_PROXIES


def client_of(request: web.Request, trusted: Sequence[IPv4Network | IPv6Network]) -> Client:
    """Who sent the request; `trusted` are the TRUSTED_PROXIES. A unix socket has no address."""
    return resolve_client(request.protocol.peername, request.headers, trusted)


def client_ip(request: web.Request) -> IPv4Address | IPv6Address | None:
    """The address that the request counts for."""
    return client_of(request, request.app[CTX].settings.trusted_proxies).address


def resolve_client(
    peername: object, headers: MultiMapping[str], trusted: Sequence[IPv4Network | IPv6Network]
) -> Client:
    """Walk X-Forwarded-For from right to left for as long as the hop that wrote an entry is trusted.

    An entry that is no address ends the walk at the hop that sent it: whoever forges one gains nothing.
    """
    direct = _direct_client(peername[0] if isinstance(peername, tuple) and peername else "")
    peer = direct.address
    if peer is None or not trusted or not any(peer in network for network in trusted):
        return direct
    address = _walk(peer, headers.getall("X-Forwarded-For", ()), trusted)
    return Client(address, str(address), is_behind_proxy=True)


def _walk(
    address: IPv4Address | IPv6Address,
    forwarded_for: Sequence[str],
    trusted: Sequence[IPv4Network | IPv6Network],
) -> IPv4Address | IPv6Address:
    hops = [hop.strip() for value in forwarded_for for hop in value.split(",")]
    for hop in reversed(hops):
        parsed = _parse(hop) if len(hop) <= _LONGEST_ADDRESS else None
        if parsed is None:
            break
        address = parsed
        if not any(address in network for network in trusted):
            break
    return address


@lru_cache(maxsize=4096)  # parsing takes 3 µs, and the same few proxies and clients come all the time
def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """An address; IPv4 that is mapped into IPv6 (::ffff:192.0.2.1) is IPv4, so that it matches IPv4 rules."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or ipaddress.IPv6Address(int(address))
    return address


@lru_cache(maxsize=4096)
def _direct_client(peer: str) -> Client:
    """The client that is the peer itself."""
    address = _parse(peer)
    return Client(address, None if address is None else str(address), is_behind_proxy=False)
