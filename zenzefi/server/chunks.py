"""Follows the structure of a chunked body, and writes it anew: what came in one read goes on as one chunk.

aiohttp's parser and its body keep one entry per chunk, and whoever sends chunks of one byte makes the server do the
work of many reads for each that it did. Here a chunk costs a fraction of a microsecond, and tiny ones are limited.
The grammar is RFC 9112's (section 7.1) without its leniencies; extensions and trailers are checked, bounded, and
dropped: nothing here has a use for them, and a trailer that is merged into a head has passed none of its checks.
"""

import re
from typing import Final

from zenzefi.server.errors import MalformedRequest
from zenzefi.server.framing import FIELD_LINE, HEAD_END, JUNK, TOKEN, HeadLimits, holds_decisive_field

_LINE_BYTES: Final = 256  # a size with its extensions, which hardly anybody sends
_TRAILERS_BYTES: Final = 8 * 1024

# What sizes and extensions may weigh beside the data: an eighth, as chunks of 48 bytes come to. A client that
# writes single bytes as they come sends few in one read, so the first ones of each read are free; the credit is for
# what piled up while nobody read. It belongs to the connection, or small bodies in a row would have it again and again.
_CREDIT_BYTES: Final = 16 * 1024
_DATA_PER_FRAMING: Final = 8
_FREE_PER_READ: Final = 16

_SIZE: Final = rb"([0-9A-Fa-f]{1,15}+)"  # of 60 bits
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"'
_EXTENSIONS: Final = rb"(?:;" + TOKEN + rb"++(?:=(?:" + TOKEN + rb"++|" + _QUOTED + rb"))?)*+"
_FIRST_LINE: Final = re.compile(_SIZE + _EXTENSIONS + rb"\r\n")
_NEXT_LINE: Final = re.compile(rb"\r\n" + _SIZE + _EXTENSIONS + rb"\r\n")
_UNFINISHED: Final = rb"[0-9A-Fa-f]{0,15}+(?:(?<=[0-9A-Fa-f]);[\t\x20-\x7e\x80-\xff]*+)?\r?"
_UNFINISHED_FIRST: Final = re.compile(_UNFINISHED)
_UNFINISHED_NEXT: Final = re.compile(rb"\r(?:\n" + _UNFINISHED + rb")?")
_TRAILERS: Final = re.compile(rb"(?:" + FIELD_LINE + rb")++\r\n")


class ChunkReader:
    """The chunked bodies of one connection, one after the other."""

    __slots__ = ("_credit", "_has_begun", "_held", "_in_trailers", "_left", "_limits", "is_over")

    def __init__(self, limits: HeadLimits) -> None:
        self._limits = limits
        self._credit = _CREDIT_BYTES
        self.begin()

    def begin(self) -> None:
        """Expect a body's first byte."""
        self._held = b""  # a part of a line, or of the trailers
        self._left = 0  # of the chunk: bytes of data still to come
        self._has_begun = False
        self._in_trailers = False
        self.is_over = False  # the body's last byte has been read

    def reframe(self, data: bytes) -> tuple[bytes, bytes]:
        """Take the next bytes; return them as at most one chunk, with the last chunk where it is, and what lies behind.

        Raises:
            MalformedRequest: it is not the body's framing, or too much of it for the data that it frames.
        """
        if self.is_over:
            return b"", data
        if self._held:
            data, self._held = self._held + data, b""
        pieces: list[bytes] = []
        position = self._take_chunks(data, pieces)
        end = self._find_end(data, position) if self._in_trailers else None
        piece = b"".join(pieces)
        chunk = b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
        if end is None:
            return chunk, b""
        self.is_over = True
        return chunk + b"0\r\n\r\n", data[end:]

    def _take_chunks(self, data: bytes, pieces: list[bytes]) -> int:
        position, size = 0, len(data)
        free = _FREE_PER_READ
        while position < size and not self._in_trailers:
            if not self._left:
                match = (_NEXT_LINE if self._has_begun else _FIRST_LINE).match(data, position)
                if match is None:
                    self._hold_line(data[position:])
                    return size
                self._has_begun = True
                self._charge(match.end() - position, is_free=free > 0)
                free -= 1
                position = match.end()
                self._left = int(match[1], 16)
                self._in_trailers = self._left == 0
            else:
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                self._credit = min(self._credit + len(piece) // _DATA_PER_FRAMING, _CREDIT_BYTES)
        return position

    def _charge(self, line_bytes: int, *, is_free: bool) -> None:
        if line_bytes > _LINE_BYTES:
            raise MalformedRequest
        if not is_free:
            self._credit -= line_bytes
            if self._credit < 0:
                raise MalformedRequest

    def _hold_line(self, part: bytes) -> None:
        """Keep the part of a line that is there, unless no continuation makes it a good one."""
        grammar = _UNFINISHED_NEXT if self._has_begun else _UNFINISHED_FIRST
        if len(part) > _LINE_BYTES or grammar.fullmatch(part) is None:
            raise MalformedRequest
        self._held = part

    def _find_end(self, data: bytes, position: int) -> int | None:
        """Where the body ends whose trailers begin at `position`; None if they are not all there yet."""
        if data.startswith(b"\r\n", position):
            return position + 2
        end = data.find(HEAD_END, position, position + _TRAILERS_BYTES)
        if end < 0:
            self._held = data[position:]
            if len(self._held) >= _TRAILERS_BYTES or JUNK.search(self._held) is not None:
                raise MalformedRequest
            return None
        trailers = data[position : end + 4]
        if (
            _TRAILERS.fullmatch(trailers) is None
            or trailers.count(b"\r\n") > self._limits.fields + 1
            or holds_decisive_field(trailers)
        ):
            raise MalformedRequest
        return end + 4
