"""What a request head must be before anything else sees it: pure checks on its bytes.

The grammar is RFC 9112's without the leniencies it allows: two programs that read one lenient message differently are
what request smuggling is made of. llhttp, which parses the head afterwards, stays as the second line of defence; by
itself it accepts several things refused here (``Transfer-Encoding: gzip, chunked``, a coding on HTTP/1.0, an
absolute-form target, a literal ``#``, RTSP, HTTP/0.9, bare line feeds before the request line).
"""

import re
from dataclasses import dataclass
from typing import Final

from zenzefi.server.errors import (
    AmbiguousHeader,
    ExpectationRefused,
    HeadTooLarge,
    MalformedRequest,
    MethodRefused,
    RefusedRequest,
    TargetTooLong,
    VersionRefused,
)

CHUNKED: Final = -1

HEAD_END: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLimits:
    """How large a head may be. The sum bounds what a connection that has not shown a token can pin in memory."""

    request_line_bytes: int = 8 * 1024
    fields_bytes: int = 32 * 1024  # a browser's cookies fit several times
    fields: int = 100

    @property
    def head_bytes(self) -> int:
        """The largest possible head."""
        return self.request_line_bytes + self.fields_bytes


TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
# Possessive quantifiers: the grammar is deterministic, so giving characters back could only cost time.
FIELD_LINE: Final = TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n"
_HEAD = re.compile(
    rb"(" + TOKEN + rb"{1,32}+) ([!\"$-~]++) HTTP/1\.([01])\r\n"
    rb"(?:" + FIELD_LINE + rb")*+\r\n"
)
_OTHER_VERSION = re.compile(rb"[A-Z]{1,32}+ [!-~]++ HTTP/(?!1\.[01]\r)[0-9](?:\.[0-9])?\r\n")
_DECISIVE_FIELDS = re.compile(
    rb"\r\n(host|content-length|transfer-encoding|expect|x-access-token|x-device-id):[\t ]*([^\r]*)", re.IGNORECASE
)
_CONTINUE = b"100-continue"
_UNDERSCORED_NAMES = re.compile(rb"\r\n([^:\r]*_[^:\r]*):")
_HOST = re.compile(rb"(?:[0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?[\t ]*")
# 18 digits stay below 2**63 in every reader on the way; no body of an exabyte is meant seriously.
_CONTENT_LENGTH = re.compile(rb"[0-9]{1,18}")
JUNK: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)")

# CGI and WSGI turn hyphens to underscores: an upstream of that kind reads X_User_Id as the X-User-Id that only the
# gateway may set, and Content_Length as the length of a body.
_NEVER_UNDERSCORED = frozenset(
    {
        b"x-access-token",
        b"x-device-id",
        b"x-user-id",
        b"x-token-id",
        b"x-request-id",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"idempotency-key",
        b"proxy-authorization",
        b"content-length",
        b"transfer-encoding",
    }
)


def check_head(head: bytes, limits: HeadLimits) -> int:
    """Check a whole head, from its first byte to the empty line; return its body's length, or CHUNKED.

    Raises:
        RefusedRequest: nobody may act on this head.
    """
    match = _HEAD.fullmatch(head)
    if match is None:
        raise _why_malformed(head, limits)
    line_bytes = match.end(3)
    if line_bytes > limits.request_line_bytes:
        raise TargetTooLong
    if len(head) - line_bytes > limits.fields_bytes or head.count(b"\r\n") > limits.fields + 2:
        raise HeadTooLarge
    method, target, minor_version = match.groups()
    if method == b"TRACE" or method == b"CONNECT":
        raise MethodRefused
    # Absolute form would set request.host past the Host header, and authority form is CONNECT's alone.
    if target[0] != 0x2F and not (target == b"*" and method == b"OPTIONS"):
        raise MalformedRequest
    if b"_" in head and any(
        name.lower().replace(b"_", b"-") in _NEVER_UNDERSCORED for name in _UNDERSCORED_NAMES.findall(head)
    ):
        raise AmbiguousHeader
    return _body_length(head, is_1_0=minor_version == b"0")


def _decisive_fields(head: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, value in _DECISIVE_FIELDS.findall(head):
        key = name.lower()
        if key in found:
            raise AmbiguousHeader() if key.startswith(b"x-") else MalformedRequest()
        found[key] = value
    return found


def _body_length(head: bytes, *, is_1_0: bool) -> int:
    found = _decisive_fields(head)
    host = found.get(b"host")
    if host is None:
        if not is_1_0:
            raise MalformedRequest
    elif _HOST.fullmatch(host) is None:
        raise MalformedRequest
    # aiohttp would answer another one before any middleware sees the request.
    if b"expect" in found and found[b"expect"].rstrip(b" \t").lower() != _CONTINUE:
        raise ExpectationRefused
    coding, length = found.get(b"transfer-encoding"), found.get(b"content-length")
    if coding is not None:
        if coding != b"chunked" or is_1_0 or length is not None:  # exactly: llhttp refuses some spaces after it, too
            raise MalformedRequest
        return CHUNKED
    if length is None:
        return 0
    length = length.rstrip(b" \t")
    if _CONTENT_LENGTH.fullmatch(length) is None:
        raise MalformedRequest
    return int(length)


def holds_decisive_field(trailers: bytes) -> bool:
    """Whether one of the fields behind a body is of those that decide about the head's message."""
    return _DECISIVE_FIELDS.search(b"\r\n" + trailers) is not None


def check_unfinished_head(head: bytes, limits: HeadLimits, *, checked: int) -> None:
    """Refuse a head at once that cannot become a good one, instead of waiting for its end; `checked` bytes are known.

    Raises:
        RefusedRequest: no continuation makes this head acceptable.
    """
    # From one byte before the known part's end: a carriage return there was still waiting for its line feed.
    if not head[:1].isalnum() or JUNK.search(head, max(checked - 1, 0)) is not None:
        raise MalformedRequest
    if len(head) > limits.request_line_bytes + 2 and b"\r\n" not in head:
        raise TargetTooLong
    if len(head) > limits.head_bytes:
        raise HeadTooLarge


def _why_malformed(head: bytes, limits: HeadLimits) -> RefusedRequest:
    if head.index(b"\r\n") > limits.request_line_bytes:
        return TargetTooLong()
    if len(head) > limits.head_bytes:
        return HeadTooLarge()
    return VersionRefused() if _OTHER_VERSION.match(head) else MalformedRequest()
