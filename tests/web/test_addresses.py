"""The client's address cannot be forged past a trusted proxy."""

import tracemalloc
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from tests.support.examples import unhurried
from zenzefi.web.addresses import resolve_client

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def headers(forwarded: list[str]) -> CIMultiDict[str]:
    """Those of a request that came this way."""
    return CIMultiDict(("X-Forwarded-For", value) for value in forwarded)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("198.51.100.7", ["203.0.113.9"], "198.51.100.7"),  # an untrusted peer's word counts nothing
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.9"], "203.0.113.9"),  # what the client wrote itself is left of that
        ("10.0.0.1", ["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9", "10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["203.0.113.9:1234"], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("fe80::1%eth0", [], "fe80::1"),
    ],
)
def test_address_is_the_first_untrusted_hop_from_the_right(peer: str, forwarded: list[str], expected: str) -> None:
    client = resolve_client((peer, 4000), headers(forwarded), TRUSTED)
    assert (client.address, client.text) == (ip_address(expected), expected)
    assert client.is_behind_proxy == (peer[-8:] == "10.0.0.1" or peer == "fd00::1")


@unhurried
@given(forged=st.lists(st.text(max_size=40)), client=st.ip_addresses(v=4))
def test_whatever_a_client_writes_its_own_address_counts(forged: list[str], client: object) -> None:
    if any(client in network for network in TRUSTED):
        return
    assert resolve_client(("10.0.0.1", 4000), headers([*forged, str(client)]), TRUSTED).address == client


def test_unix_socket_has_no_address() -> None:
    assert resolve_client("", headers(["203.0.113.9"]), TRUSTED).address is None


def test_long_forgeries_are_not_remembered() -> None:
    tracemalloc.start()
    try:
        for number in range(200):
            forged = f"{number}{'x' * 30_000}"
            client = resolve_client(("10.0.0.1", 4000), headers([f"{forged}, 10.0.0.2"]), TRUSTED)
            assert client.text == "10.0.0.2"
        remembered_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert remembered_bytes < 1_000_000
