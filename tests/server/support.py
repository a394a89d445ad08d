"""A small application behind the hardened runner, and a client that writes raw bytes."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from zenzefi.server.deadlines import Deadlines
from zenzefi.server.framing import HeadLimits
from zenzefi.server.runner import HardenedRunner, HardenedServer

HOST = b"Host: gateway.test\r\n"
_TICK_S = 0.02
_STALL_S = 0.1


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"].startswith("application/problem+json")
        document = json.loads(self.body)
        assert isinstance(document, dict)
        return document


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, port: int) -> AsyncIterator["Client"]:
        """Connect, and close at the end."""
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        try:
            yield client
        finally:
            await client.close()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, head_only: bool = False, timeout_s: float = 30.0) -> Answer:
        async with asyncio.timeout(timeout_s):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            start_line, *lines = head.split("\r\n")[:-2]
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            status = int(start_line.split()[1])
            if head_only or status in (204, 304) or status < 200:
                body = b""
            elif headers.get("transfer-encoding") == "chunked":
                body = await self._chunks()
            else:
                body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(status=status, headers=headers, body=body)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return body

    async def rest(self, *, timeout_s: float = 30.0) -> bytes:
        """Everything until the server closes; a reset ends it too."""
        data = b""
        async with asyncio.timeout(timeout_s):
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(65536):
                    data += piece
        return data

    async def is_closed(self, *, timeout_s: float = 30.0) -> bool:
        return await self.rest(timeout_s=timeout_s) == b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@dataclass
class Service:
    """The application's address, and what its handlers saw."""

    port: int
    runner: HardenedRunner
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    events: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def server(self) -> HardenedServer:
        assert isinstance(self.runner.server, HardenedServer)
        return self.runner.server

    def connect(self) -> AbstractAsyncContextManager[Client]:
        return Client.to(self.port)

    async def exchange(self, data: bytes) -> bytes:
        """Send all of it on a new connection and return all that comes back until the server closes."""
        async with self.connect() as client:
            await client.send(data)
            return await client.rest()


SERVICE = web.AppKey("service", Service)


async def echo(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    body = await request.read()
    service.seen.append((request.method, request.raw_path, body))
    return web.Response(body=body)


async def count_pieces(request: web.Request) -> web.Response:
    """In how many pieces the body lay here before it was read: each of them is work, however small it is."""
    content: Any = request.content
    pieces = size = 0
    while not content.at_eof():
        await asyncio.sleep(0.05)
        pieces += len(content._buffer)  # no public way tells
        size += len(await content.readany())
    return web.Response(text=f"{pieces} {size}")


async def process_id(_request: web.Request) -> web.Response:
    return web.Response(text=str(os.getpid()))


async def ignore_body(request: web.Request) -> web.Response:
    request.app[SERVICE].seen.append((request.method, request.raw_path, b""))
    return web.Response(text="ignored", status=401)


async def wait(request: web.Request) -> web.Response:
    """Answer once the gate opens; report the client's departure."""
    service = request.app[SERVICE]
    protocol: Any = request.protocol
    protocol.on_disconnect = lambda: service.events.put_nowait("gone")
    service.events.put_nowait("waiting")
    await service.gate.wait()
    service.events.put_nowait("done")
    return web.Response(text="waited")


async def hang(request: web.Request) -> web.StreamResponse:
    """Begin an answer, so that the client knows where its request is, and never end it."""
    response = web.StreamResponse()
    await response.prepare(request)
    await asyncio.Event().wait()
    return response


async def download(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(int(request.query["pieces"])):
        await response.write(b"x" * 65536)
    await response.write_eof()
    return response


async def drip(request: web.Request) -> web.StreamResponse:
    """A long answer that says little, as server-sent events do."""
    response = web.StreamResponse()
    await response.prepare(request)
    for number in range(int(request.query["events"])):
        await response.write(b"data: %d\n\n" % number)
        await asyncio.sleep(0.1)
    return response


async def slow_read(request: web.Request) -> web.Response:
    """A handler that is busy for long before it reads the body."""
    await asyncio.sleep(float(request.query["seconds"]))
    return web.Response(text=str(len(await request.read())))


async def websocket(request: web.Request) -> web.WebSocketResponse:
    socket_response = web.WebSocketResponse()
    await socket_response.prepare(request)
    async for message in socket_response:
        await socket_response.send_str(message.data)
    return socket_response


async def fail(_request: web.Request) -> web.Response:
    raise RuntimeError("the inside of the service")


def small_app() -> web.Application:
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_get("/wait", wait)
    app.router.add_get("/hang", hang)
    app.router.add_get("/download", download)
    app.router.add_get("/drip", drip)
    app.router.add_get("/ws", websocket)
    app.router.add_get("/fail", fail)
    app.router.add_post("/slow-read", slow_read)
    app.router.add_post("/pieces", count_pieces)
    app.router.add_route("*", "/ignore", ignore_body)
    app.router.add_get("/process", process_id)
    app.router.add_route("*", "/{path:.*}", echo)
    return app


def now_s() -> float:
    """The loop's clock, by which the server's deadlines go."""
    return asyncio.get_running_loop().time()


@contextlib.contextmanager
def _time_without_stalls() -> Iterator[None]:
    """Have the loop's clock stand still while a busy machine lets this process wait.

    Clients and server share the loop: a stall would otherwise pass for a client that was slow.
    """
    loop = asyncio.get_running_loop()
    real = loop.time
    seen = passed = real()

    def clock() -> float:
        nonlocal seen, passed
        before, seen = seen, real()
        passed += min(seen - before, _STALL_S)
        return passed

    async def tick() -> None:
        while True:  # noqa: ASYNC110  it waits for nothing
            await asyncio.sleep(_TICK_S)  # so that it is no stall when all others sleep for longer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "time", clock)
        ticking = asyncio.create_task(tick())
        try:
            yield
        finally:
            ticking.cancel()


@contextlib.asynccontextmanager
async def serving(*, deadlines: Deadlines | None = None, limits: HeadLimits | None = None) -> AsyncIterator[Service]:
    app = small_app()
    runner = HardenedRunner(app, deadlines=deadlines, limits=limits)
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    service = Service(port=listener.getsockname()[1], runner=runner)
    app[SERVICE] = service
    with _time_without_stalls():
        await runner.setup()
        try:
            await web.SockSite(runner, listener, backlog=4096).start()
            yield service
        finally:
            service.gate.set()
            await runner.cleanup()
