"""Cuts a connection's bytes into requests, and hands aiohttp's parser only heads that passed every check.

aiohttp's protocol takes whatever has its parser's five methods. RequestFramer stands in that place and keeps the real
parser behind it: it holds a head back until it is whole and checked, and it cuts the bytes exactly where a message
ends, so that a pipelined head never slips through in the shadow of the message before it. (Cutting there also spares
llhttp a defect: bytes behind a request with an unknown ``Upgrade`` would be lost.)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo

from zenzefi.server.chunks import ChunkReader
from zenzefi.server.errors import MalformedRequest, MethodUnknown, RefusedRequest
from zenzefi.server.framing import CHUNKED, HEAD_END, HeadLimits, check_head, check_unfinished_head

if TYPE_CHECKING:
    from zenzefi.server.protocol import HardenedProtocol

Message: TypeAlias = "tuple[RawRequestMessage | _ErrInfo, StreamReader]"
Parsed: TypeAlias = "tuple[Sequence[Message], bool, bytes]"

_NOTHING: Parsed = ((), False, b"")

# Requests that may wait behind the one being handled; aiohttp pauses reading at the same number.
MAX_QUEUED = 32


def refused(error: RefusedRequest) -> Message:
    """The message that makes aiohttp's protocol answer with `error` in the request's turn."""
    return _ErrInfo(status=error.status, exc=error, message=""), EMPTY_PAYLOAD


class RequestFramer:
    """One connection's framing; has the interface of aiohttp's HttpRequestParser as its protocol uses it."""

    __slots__ = (
        "_chunks",
        "_closes",
        "_held",
        "_is_over",
        "_left",
        "_limits",
        "_parser",
        "_protocol",
        "_skipped_line",
        "body",
        "head",
        "head_since",
    )

    def __init__(self, protocol: "HardenedProtocol", parser: HttpRequestParser, limits: HeadLimits) -> None:
        self._protocol = protocol
        self._parser = parser
        self._limits = limits
        self._is_over = False  # no byte of this connection is looked at any more
        self._closes = False  # the last request said that it is the last
        self._held = b""  # bytes that wait until the protocol reads again
        self._left = 0  # of a body with a length: bytes still to come; or CHUNKED
        self._chunks = ChunkReader(limits)
        self._skipped_line = False
        self.body: StreamReader = EMPTY_PAYLOAD  # the body that is being received, or that was last
        self.head = b""  # the part of a head that is there
        self.head_since = 0.0  # when that part began, in the event loop's time; 0 without one

    def close(self) -> None:
        """Look at nothing that still comes."""
        self._is_over = True
        self.head = self._held = b""
        self.head_since = 0.0

    def message_consumed(self) -> None:
        """The protocol took a message off its queue."""
        self._parser.message_consumed()

    def pause_reading(self) -> None:
        """A body's reader wants no more for now."""
        self._parser.pause_reading()

    def set_upgraded(self, val: bool) -> None:
        """The protocol declined an upgrade and goes on with HTTP."""
        self._parser.set_upgraded(val)

    def feed_data(self, data: bytes) -> Parsed:
        """Take the connection's next bytes; return whole heads with their bodies, or refusals in their place."""
        if self._is_over:
            self._protocol.note_dropped(len(data))
            return _NOTHING
        if self._held:
            data, self._held = self._held + data, b""
        messages: list[Message] = []
        try:
            if self._is_one_head(data):
                upgraded, tail = self._feed_head(data, messages), b""
                if self.body is not EMPTY_PAYLOAD:
                    upgraded, tail = self._feed(b"", messages)
                elif self._closes and not upgraded:
                    self.close()
            else:
                upgraded, tail = self._feed(data, messages)
        except RefusedRequest as error:
            self.close()
            messages.append(refused(error))
            return messages, False, b""
        return messages, upgraded, tail

    def _is_one_head(self, data: bytes) -> bool:
        """Whether there is nothing but one whole head, and all before it is over: nearly every request comes so."""
        return (
            data.endswith(HEAD_END)
            and self.body.is_eof()
            and not data.startswith(b"\r")
            and not self.head
            and not self._closes
            and not self._skipped_line
            and self._protocol.queued_requests < MAX_QUEUED
            and data.find(HEAD_END) == len(data) - 4  # the last: it takes as long as the data are
        )

    def _feed(self, data: bytes, messages: list[Message]) -> tuple[bool, bytes]:
        waiting = self._protocol.queued_requests
        while True:
            upgraded = False
            if not self.body.is_eof():
                data, upgraded = self._feed_body(data, messages)
                if not self.body.is_eof():
                    self._held = data
                    return False, b""
            if not upgraded:
                if self._closes:
                    self.close()
                if self._is_over or not data:
                    return False, b""
                if waiting + len(messages) >= MAX_QUEUED:
                    self._held = data
                    return False, b""
                head, data = self._take_head(data)
                if not head:
                    return False, b""
                upgraded = self._feed_head(head, messages)
            if upgraded and self.body.is_eof():
                return True, data

    def _take_head(self, data: bytes) -> tuple[bytes, bytes]:
        known = len(self.head)
        if known:
            data = self.head + data
        if not self._skipped_line and data[:2] == b"\r\n":
            # RFC 9112, section 2.2: one empty line before a request is forgiven.
            self._skipped_line, data, known = True, data[2:], 0
        end = data.find(HEAD_END, max(known - 3, 0))
        if end >= 0:
            self.head, self.head_since, self._skipped_line = b"", 0.0, False
            return data[: end + 4], data[end + 4 :]
        if data and data != b"\r":
            check_unfinished_head(data, self._limits, checked=known)
        self.head = data
        self.head_since = (self.head_since or self._protocol.now()) if data else 0.0
        return b"", b""

    def _feed_head(self, head: bytes, messages: list[Message]) -> bool:
        length = check_head(head, self._limits)
        try:
            parsed, upgraded, _ = self._parser.feed_data(head)
            ((message, body),) = parsed
        except BadHttpMethod:
            raise MethodUnknown from None  # the grammar has passed: it is a token, only no method
        except (HttpProcessingError, ValueError):
            raise MalformedRequest from None
        # Both readers must agree on where this message ends, or the next head would be read out of its body.
        if bool(message.chunked) is not (length == CHUNKED) or (length == 0) is not (body is EMPTY_PAYLOAD):
            raise MalformedRequest
        messages.append((message, body))
        self.body = body
        self._left = length
        if length == CHUNKED:
            self._chunks.begin()
        self._closes = message.should_close
        return bool(upgraded)

    def _feed_body(self, data: bytes, messages: list[Message]) -> tuple[bytes, bool]:
        upgraded = False
        try:
            if self._left == CHUNKED:
                piece, rest = self._chunks.reframe(data)
            else:
                piece, rest = data[: self._left], data[self._left :]
                self._left -= len(piece)
            # Also without a byte: the parser may have paused before the end that it was given.
            _, upgraded, _ = self._parser.feed_data(piece)
        except (HttpProcessingError, RefusedRequest):
            self._fail_body(messages)
            return b"", False
        return rest, bool(upgraded)

    def _fail_body(self, messages: list[Message]) -> None:
        self.close()
        if messages and messages[-1][1] is self.body:
            messages[-1] = refused(MalformedRequest())  # no handler has seen it yet
        else:
            self.body.set_exception(RequestPayloadError("the body's framing is broken"))
            self._protocol.announce_close()
