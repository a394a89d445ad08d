"""Header rules: what of a request and of its answer crosses the gateway. Pure functions on raw header fields."""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from multidict import MultiMapping

RawHeaders = Sequence[tuple[bytes, bytes]]

# For one connection only (RFC 9110, section 7.6.1, and 11.7 for the proxy's own authentication). Trailers end here, so
# their announcement does, too.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# The client's credentials for the gateway: the upstream never sees them.
CREDENTIALS = frozenset({b"x-access-token", b"x-device-id", b"authorization", b"proxy-authorization"})
# What we say about the request ourselves; a client's own word on it would be taken for ours.
_PROVENANCE = frozenset(
    {b"x-user-id", b"x-token-id", b"x-request-id", b"x-real-ip", b"forwarded", b"traceparent", b"tracestate"}
)
_FORWARDED_PREFIX = b"x-forwarded-"
# Frameworks take these for the request's path or method, and would leave the scope that the real ones were checked
# against.
_OVERRIDES = frozenset(
    {
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-original-url",
        b"x-rewrite-url",
    }
)
# Framing and routing are decided anew for the upstream's connection.
_REFRAMED = frozenset({b"host", b"content-length", b"expect"})
_NEVER_UPSTREAM = HOP_BY_HOP | CREDENTIALS | _PROVENANCE | _OVERRIDES | _REFRAMED

# In answers: what the gateway says itself on every response, so that two words never contradict each other, and
# Alt-Svc, which would send the client past the gateway (RFC 7838).
_NEVER_DOWNSTREAM = frozenset(name.decode() for name in HOP_BY_HOP) | {
    "alt-svc",
    "ratelimit",
    "ratelimit-policy",
    "referrer-policy",
    "strict-transport-security",
    "x-content-type-options",
    "x-frame-options",
    "x-request-id",
    "x-token-expires-at",
}
# aiohttp reads upstreams leniently; passing these on would let an upstream forge header lines (RFC 9110, section 5.5).
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Provenance(NamedTuple):
    """What the gateway tells the upstream about a request."""

    client_ip: str
    scheme: str
    host: str
    user_id: str
    token_id: str
    request_id: str
    trace: str = ""  # whole header lines

    def lines(self) -> bytes:
        """The header lines that say it."""
        return (
            f"X-Forwarded-For: {self.client_ip}\r\n"
            f"X-Forwarded-Proto: {self.scheme}\r\n"
            f"X-Forwarded-Host: {self.host}\r\n"
            f"X-User-Id: {self.user_id}\r\n"
            f"X-Token-Id: {self.token_id}\r\n"
            f"X-Request-ID: {self.request_id}\r\n"
            f"{self.trace}"
        ).encode("utf-8", "surrogateescape")


def request_head(
    method: str,
    target: bytes,
    *,
    authority: bytes,
    headers: RawHeaders,
    provenance: Provenance,
    framing: bytes,
) -> bytes:
    """Build the head of the request to the upstream.

    The client's fields keep their order, spelling and bytes. A name that differs from one of ours only in underscores
    is dropped, too: CGI and WSGI fold both into one variable. `framing` holds whole lines: see framing_lines().
    """
    lines = [method.encode("ascii"), b" ", target, b" HTTP/1.1\r\nHost: ", authority, b"\r\n"]
    named = _named_by_connection(headers)
    for name, value in headers:
        key = name.lower()
        if key in _NEVER_UPSTREAM or key in named or key.startswith(_FORWARDED_PREFIX):
            continue
        if b"_" in key and _is_ours(key.replace(b"_", b"-")):
            continue
        lines += (name, b": ", value, b"\r\n")
    lines += (provenance.lines(), framing, b"\r\n")
    return b"".join(lines)


def framing_lines(
    *, content_length: int | None, chunked: bool = False, expect_continue: bool = False, upgrade: str = ""
) -> bytes:
    """The header lines that say how the request's body is delimited and what the connection is to become."""
    lines = b""
    if chunked:
        lines = b"Transfer-Encoding: chunked\r\n"
    elif content_length is not None:
        lines = b"Content-Length: %d\r\n" % content_length
    if expect_continue:
        lines += b"Expect: 100-continue\r\n"
    if upgrade:
        lines += b"Connection: Upgrade\r\nUpgrade: %s\r\n" % upgrade.encode("ascii")
    return lines


def answer_headers(reason: str, headers: MultiMapping[str]) -> list[tuple[str, str]]:
    """The header fields of an answer that go on to the client, in their order, duplicates kept.

    Raises:
        ValueError: the reason phrase or a field holds a control character, or the body's transfer coding is none that
            we asked for.
    """
    named = _named_in_answer(headers)
    kept = [
        (name, value)
        for name, value in headers.items()
        if (key := name.lower()) not in _NEVER_DOWNSTREAM and key not in named
    ]
    # One search for all fields: a tab is allowed, so it can join them.
    if _CONTROL.search("\t".join((reason, *chain.from_iterable(kept)))):
        raise ValueError("The upstream's answer holds a control character.")
    # Without a TE field in the request only chunked is allowed (RFC 9112, section 6.1); aiohttp undoes no other.
    if [coding.lower() for coding in headers.getall("Transfer-Encoding", ("chunked",))] != ["chunked"]:
        raise ValueError("The upstream's answer has a transfer coding that was not asked for.")
    return kept


def upgrade_of(headers: MultiMapping[str]) -> str:
    """The protocol that a request asks to upgrade to, in lower case, or "" (RFC 9110, section 7.8)."""
    protocol = headers.get("Upgrade")
    if protocol is None or "upgrade" not in _connection_options(headers):
        return ""
    return protocol.strip().lower()


def _is_ours(key: bytes) -> bool:
    return key in _NEVER_UPSTREAM or key.startswith(_FORWARDED_PREFIX)


def _named_by_connection(headers: RawHeaders) -> frozenset[bytes]:
    """The names that the Connection header lists, so that they end here.

    Nothing of ours can be dropped by it: our own fields are not looked up in it.
    """
    options = [value for name, value in headers if len(name) == 10 and name.lower() == b"connection"]
    if not options or options == [b"keep-alive"]:
        return frozenset()
    return frozenset(token.strip().lower() for value in options for token in value.split(b","))


def _named_in_answer(headers: MultiMapping[str]) -> frozenset[str]:
    options = headers.getall("Connection", ())
    if not options or options == ["keep-alive"]:  # the two usual cases
        return frozenset()
    # Dropping the length would turn a HEAD's or a plain answer's framing into another one.
    return frozenset(_connection_options(headers)) - {"content-length"}


def _connection_options(headers: MultiMapping[str]) -> Iterator[str]:
    return (token.strip().lower() for value in headers.getall("Connection", ()) for token in value.split(","))
