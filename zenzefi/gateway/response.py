"""The responses that pass an upstream's answer on: its header fields and framing, and nothing that aiohttp adds."""

import socket
import struct
from collections.abc import Iterable

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion10, HttpVersion11, RawResponseMessage, StreamWriter
from multidict import CIMultiDict

from zenzefi.web.direct import WITHOUT_BODY, SentResponse, write_at_once

# Close with a reset: pending data is dropped and the peer sees an error instead of an end.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class WholeAnswer(SentResponse):
    """A response whose body is there: sent in one piece, without what its base does for all that might be otherwise."""

    def __init__(self, request: web.Request, message: RawResponseMessage, body: bytes) -> None:
        """Take an answer that ``suits`` said yes to. (The base's own constructor would only cost time.)"""
        self._req = request
        self._status = message.code
        self._message = message
        self._body_bytes = body
        self._keep_alive = request.keep_alive

    @staticmethod
    def suits(request: web.Request, message: RawResponseMessage, body: bytes) -> bool:
        """Whether the framing of the answer is a plain one."""
        length = message.headers.get(hdrs.CONTENT_LENGTH)
        return (
            (length is None or length == str(len(body)))
            and message.code not in WITHOUT_BODY
            and request.version == HttpVersion11
            and request.method != "HEAD"
        )

    @property  # type: ignore[misc]  # it is not to be set
    def content_length(self) -> int:
        """The bytes of the body."""
        return len(self._body_bytes)

    async def send(self, fields: Iterable[tuple[str, str]]) -> None:
        """Write it all; `fields` as for ProxiedResponse.

        Raises:
            ClientError, OSError: the client is gone.
        """
        request, message, body = self._req, self._message, self._body_bytes
        assert request is not None
        lines = [f"HTTP/1.1 {message.code} {message.reason}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in fields]
        if hdrs.CONTENT_LENGTH not in message.headers:
            lines.append("Transfer-Encoding: chunked\r\n")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        if hdrs.DATE not in message.headers:  # whoever forwards an answer without it adds it (RFC 9110, section 6.6.1)
            lines.append(f"Date: {rfc822_formatted_time()}\r\n")
        await write_at_once(request, lines, body, keep_alive=bool(self._keep_alive))
        self._req = None

    def abort(self) -> None:
        """Break the transfer off."""
        request = self._req
        if request is not None and request.transport is not None:
            request.transport.abort()


class ProxiedResponse(web.StreamResponse):
    """A response with the upstream's status, header fields and framing, for what is not there as a whole.

    Unlike its base it adds no Server and no Content-Type, keeps the Content-Length of a 304 (RFC 9110, section 8.6),
    passes field values on that are not UTF-8, and holds the head back until the first write or send_headers(), so
    that a small answer takes one system call.
    """

    _send_headers_immediately = False

    def __init__(self, *, status: int, reason: str, headers: Iterable[tuple[str, str]]) -> None:
        """Take header fields that are free of control characters and hop-by-hop fields."""
        super().__init__(status=status, reason=reason, _real_headers=CIMultiDict(headers))
        self._close_delimited = False

    def abort(self) -> None:
        """Break the transfer off so that the client cannot take what it got for the whole."""
        request = self._req
        transport = request.transport if request is not None else None
        if transport is None:
            return
        if self._close_delimited:
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()

    async def _start(self, request: web.BaseRequest) -> AbstractStreamWriter:
        # As the base's without the application's hooks: the fields are complete, those of every response included.
        self._req = request
        writer = self._payload_writer = request.writer
        await self._prepare_headers()
        await self._write_headers()
        return writer

    async def _prepare_headers(self) -> None:
        request, writer, headers = self._req, self._payload_writer, self._headers
        assert request is not None
        assert writer is not None
        keep_alive = request.keep_alive if self._keep_alive is None else self._keep_alive
        if self._must_be_empty_body:
            if self.status == 204 or self.status < 200:  # RFC 9110, section 8.6: these carry no length
                headers.popall(hdrs.CONTENT_LENGTH, None)
        else:
            writer.length = self.content_length
            if writer.length is not None:
                pass
            elif request.version >= HttpVersion11:
                writer.enable_chunking()
                headers[hdrs.TRANSFER_ENCODING] = "chunked"
            else:
                self._close_delimited = True
                keep_alive = False
        self._keep_alive = keep_alive
        if hdrs.DATE not in headers:  # whoever forwards an answer without it adds it (RFC 9110, section 6.6.1)
            headers[hdrs.DATE] = rfc822_formatted_time()
        if self.status == 101:
            return
        if not keep_alive:
            headers[hdrs.CONNECTION] = "close"
        elif request.version == HttpVersion10:
            headers[hdrs.CONNECTION] = "keep-alive"

    async def _write_headers(self) -> None:
        request, writer = self._req, self._payload_writer
        assert request is not None
        assert isinstance(writer, StreamWriter)
        status_line = f"HTTP/{request.version.major}.{request.version.minor} {self.status} {self.reason}"
        if "".join((status_line, *self._headers.values())).isascii():
            await writer.write_headers(status_line, self._headers)
            return
        # aiohttp would leave out the bytes of a value that are not UTF-8, which it has as lone surrogates.
        head = "\r\n".join((status_line, *map(": ".join, self._headers.items()), "", ""))
        length, chunked = writer.length, writer.chunked
        writer.length, writer.chunked = None, False
        await writer.write(head.encode("utf-8", "surrogateescape"))
        writer.length, writer.chunked = length, chunked
