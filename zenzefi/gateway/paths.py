"""Path canonicalisation: one reading of a path, which the scope check and the upstream share."""

import re
from typing import NamedTuple

from zenzefi.gateway.errors import BadPath

# Unreserved characters (RFC 3986, section 2.3) mean the same encoded and plain.
UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# What a segment may hold unencoded: pchar (RFC 3986, section 3.3) without ";", which some servers cut segments at.
_PLAIN_CHARACTER = r"[A-Za-z0-9\-._~!$&'()*+,=:@]"
# Nearly every path is canonical as it comes: no escapes, no dot segments, no empty segments but the last.
_CANONICAL = re.compile(rf"(?:/(?!\.\.?(?:/|\Z)){_PLAIN_CHARACTER}+)*/?")
_SEGMENT = re.compile(rf"(?:{_PLAIN_CHARACTER}|%[0-9A-Fa-f]{{2}})*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
# An encoded "%" that starts an escape once decoded, in the standard form or in the %uXXXX one of old servers.
_DOUBLE_ENCODED = re.compile(r"%25(?:[0-9A-Fa-f]{2}|[uU][0-9A-Fa-f]{4})")
# The query goes on as it is; these would end the request line or start a fragment.
_NOT_IN_QUERY = re.compile(r"[\x00-\x20\x7f#]")
_REFUSED_ESCAPES = {
    0x2F: "an encoded slash",
    0x5C: "an encoded backslash",
    0x3B: "an encoded semicolon",
    0x7F: "an encoded control character",
    **dict.fromkeys(range(0x20), "an encoded control character"),
}


class CanonicalPath(NamedTuple):
    """A path with one meaning, and the query exactly as the client sent it (None: there was no "?")."""

    path: str
    query: str | None = None

    @property
    def target(self) -> bytes:
        """The bytes that go into the request line."""
        if self.query is None:
            return self.path.encode("ascii")
        return f"{self.path}?{self.query}".encode("utf-8", "surrogateescape")


def canonicalise(raw_path: str) -> CanonicalPath:
    """Give the one reading of a raw request-target (origin form, without the gateway's prefix).

    Escapes of unreserved characters are decoded and the hex digits of the others put in upper case (RFC 3986, sections
    6.2.2.1 and 6.2.2.2); plain dot segments are removed (sections 5.2.4 and 6.2.2.3). Unlike there, a path that climbs
    above its root is refused, not cut. All that another server might read differently is refused: see _segment().
    Canonicalising a canonical path changes nothing.

    Raises:
        BadPath: the path has no single safe reading; the detail says why.
    """
    path, mark, query = raw_path.partition("?")
    if mark and _NOT_IN_QUERY.search(query):
        raise BadPath("The query contains a control character, a space or a fragment; percent-encode it.")
    if not path.startswith("/"):
        raise BadPath("The path is to start with a slash.")
    if not _CANONICAL.fullmatch(path):
        path = _resolve(path)
    return tuple.__new__(CanonicalPath, (path, query if mark else None))  # the constructor is Python's


def _resolve(path: str) -> str:
    """Canonicalise each segment and remove the dot segments."""
    *inner, last = path.split("/")[1:]
    kept: list[str] = []
    for raw in inner:
        if not raw:
            raise BadPath("The path contains an empty segment (two slashes in a row).")
        _push(kept, _segment(raw))
    # A dot segment at the end names a folder: "/a/." is "/a/" (RFC 3986, section 5.2.4, 2B and 2C).
    _push(kept, _segment(last))
    is_folder = last in ("", ".", "..")
    return "/" + "/".join(kept) + ("/" if is_folder and kept else "")


def _push(kept: list[str], segment: str) -> None:
    if segment == "..":
        if not kept:
            raise BadPath("The path climbs above its root.")
        kept.pop()
    elif segment not in ("", "."):
        kept.append(segment)


def _segment(raw: str) -> str:
    """Canonicalise one segment, refusing what would mean something else to a server that decodes differently."""
    if not _SEGMENT.fullmatch(raw):
        raise BadPath(
            "The path contains a malformed escape or a character that is not allowed in it "
            "(a backslash, a semicolon, a control character, a fragment or one that is to be percent-encoded)."
        )
    decoded = _ESCAPE.sub(_canonical_escape, raw)
    if decoded in (".", "..") and decoded != raw:
        raise BadPath("The path contains an encoded dot segment.")
    if _DOUBLE_ENCODED.search(decoded):
        raise BadPath("The path is percent-encoded twice.")
    if "%" in decoded:
        _check_utf8(decoded)
    return decoded


def _canonical_escape(escape: re.Match[str]) -> str:
    octet = int(escape[1], 16)
    if octet in UNRESERVED:
        return chr(octet)
    if octet in _REFUSED_ESCAPES:
        raise BadPath(f"The path contains {_REFUSED_ESCAPES[octet]}.")
    return escape[0].upper()


def _check_utf8(segment: str) -> None:
    # Overlong forms (%C0%AF for a slash) are not UTF-8, yet lax decoders accept them (RFC 3629, section 10).
    octets = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), segment).encode("latin-1")
    try:
        decoded = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise BadPath("The path's escapes are not UTF-8.") from None
    if any(0x80 <= ord(character) <= 0x9F for character in decoded):
        raise BadPath("The path contains an encoded control character.")
