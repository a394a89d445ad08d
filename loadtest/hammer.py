"""A load that costs a fifth of loadtest.load's per request, for what is nearly as quick as the generator itself.

One request over and over, whose answers have a Content-Length; it reads no more of them than that.
"""

import asyncio
import time
from functools import partial
from typing import cast
from urllib.parse import urlsplit

from loadtest.load import Load

_LENGTH = b"\r\ncontent-length: "


async def hammer(url: str, content: bytes, *, connections: int, seconds: float) -> Load:
    """Send the request on each of the connections, one after another, for as long.

    Raises:
        OSError: a connection was refused or lost.
    """
    load, loop, parts = Load(), asyncio.get_running_loop(), urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    started = time.perf_counter()
    make = partial(_Client, load, content, until=started + seconds)
    clients = [(await loop.create_connection(make, host, port))[1] for _ in range(connections)]
    await asyncio.gather(*(client.done for client in clients))
    load.elapsed_s = time.perf_counter() - started
    return load


class _Client(asyncio.Protocol):
    def __init__(self, load: Load, content: bytes, *, until: float) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._load = load
        self._content = content
        self._until = until
        self._answer = b""
        self._began = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._began = time.perf_counter()
        self._transport.write(self._content)

    def data_received(self, data: bytes) -> None:
        answer = self._answer = self._answer + data if self._answer else data
        body_at = answer.find(b"\r\n\r\n") + 4
        if body_at < 4 or len(answer) < body_at + _content_length(answer[:body_at]):
            return
        now, load = time.perf_counter(), self._load
        load.latencies_s.append(now - self._began)
        load.requests += 1
        if answer[9:10] != b"2":
            load.failures += 1
            load.first_failure = load.first_failure or answer
        self._answer = b""
        if now >= self._until:
            self.done.set_result(None)
            self._transport.close()
        else:
            self._began = now
            self._transport.write(self._content)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("the server closed the connection"))


def _content_length(head: bytes) -> int:
    found = head.lower().partition(_LENGTH)[2]
    return int(found.partition(b"\r\n")[0]) if found else 0
