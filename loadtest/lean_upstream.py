"""`python -m loadtest.lean_upstream PORT`: an upstream that costs next to nothing beside what is measured.

GET /bytes/N answers N bytes; any other request is read to its end and answered with a small JSON document.
"""

import asyncio
import re
import sys
from typing import cast

import uvloop

from zenzefi.devstack.ports import LOOPBACK

_DOCUMENT = b'{"certificates":[{"id":1,"name":"x"}],"total":1}'
_SMALL = (
    b"HTTP/1.1 200 OK\r\nServer: lean\r\nDate: Mon, 23 Nov 2026 12:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: keep-alive\r\n\r\n%b" % (len(_DOCUMENT), _DOCUMENT)
)
_BYTES = re.compile(rb"GET /bytes/(\d+) ")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PIECE = b"x" * 256 * 1024


class Connection(asyncio.Protocol):
    """One connection. Chunked bodies are not understood: a load generator says how long its bodies are."""

    def __init__(self) -> None:
        """Wait for a request."""
        self._head = b""
        self._left = 0  # of the request's body
        self._sending = 0  # of the answer's
        self._is_full = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        """Answer each request once all of it is there."""
        if self._left:
            self._left -= len(data)
            if self._left == 0:
                self._transport.write(_SMALL)
            return
        self._head += data
        head, end, body = self._head.partition(b"\r\n\r\n")
        if not end:
            return
        self._head = b""
        wanted, length = _BYTES.match(head), _LENGTH.search(head)
        if wanted is not None:
            self._sending = int(wanted[1])
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self._sending)
            self._send()
            return
        self._left = int(length[1]) - len(body) if length is not None else 0
        if self._left == 0:
            self._transport.write(_SMALL)

    def pause_writing(self) -> None:
        """The connection takes no more for now."""
        self._is_full = True

    def resume_writing(self) -> None:
        """The connection takes more."""
        self._is_full = False
        self._send()

    def _send(self) -> None:
        while self._sending and not self._is_full:
            piece = _PIECE if self._sending >= len(_PIECE) else _PIECE[: self._sending]
            self._sending -= len(piece)
            self._transport.write(piece)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, LOOPBACK, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
