"""Upstreams with faults on raw sockets, real aiohttp upstreams, and a gateway that admits everybody."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import aiohttp
from aiohttp import web
from yarl import URL

from tests.server.support import Client
from zenzefi.access.models import TokenGrant
from zenzefi.errors import ZenzefiError
from zenzefi.gateway.forward import defer_continue, forward
from zenzefi.gateway.headers import Provenance
from zenzefi.gateway.models import Admission, Device, StreamEnd
from zenzefi.gateway.paths import canonicalise
from zenzefi.gateway.streams import OpenStream
from zenzefi.infra.breaker import CircuitBreaker
from zenzefi.infra.http import AUTOMATIC_HEADERS, UpstreamConnector, UpstreamTimeouts
from zenzefi.server.runner import HardenedRunner

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /a HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
KEPT = b"GET /a HTTP/1.1\r\nHost: g\r\n\r\n"
SOON_S = 20.0  # for what happens by itself at once, however busy this machine is
LONG_S = 60.0  # by which it would only happen because something timed out
SILENCE_S = 2.0  # after which something is given up; this machine, which may stand still, too, is quicker to go on


@dataclass
class RawUpstream:
    """A server whose every connection runs a script; it keeps what it read through read_head()."""

    script: Script
    port: int = 0
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)  # a head was read
    closed: asyncio.Queue[None] = field(default_factory=asyncio.Queue)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                await self.script(reader, writer)
        finally:
            self.closed.put_nowait(None)
            writer.close()

    async def read_head(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        self.asked.set()
        return head

    async def saw_close(self) -> None:
        """Wait until a connection's script has ended, which reading to the end makes it do when the gateway closes."""
        async with asyncio.timeout(SOON_S):
            await self.closed.get()


@contextlib.asynccontextmanager
async def raw_upstream(
    answer: Callable[[RawUpstream, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[RawUpstream]:
    """Serve each connection by `answer`."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(upstream, reader, writer)

    upstream = RawUpstream(script)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    tasks_before = asyncio.all_tasks()
    try:
        yield upstream
    finally:
        server.close()
        for task in asyncio.all_tasks() - tasks_before:
            if task.get_coro().__qualname__ == "RawUpstream.serve":  # type: ignore[union-attr]
                task.cancel()
        await asyncio.sleep(0)


async def answer_ok(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request without a body with 200, keeping the connection."""
    while True:
        await upstream.read_head(reader)
        writer.write(OK)


def answers_when(
    go_on: asyncio.Event, *, body_end: bytes = b""
) -> Callable[[RawUpstream, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A script that reads one whole request and answers it once it is told to."""

    async def script(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if body_end:
            await reader.readuntil(body_end)
        upstream.heads.append(head)
        upstream.asked.set()
        await go_on.wait()
        writer.write(OK)
        await reader.read()

    return script


async def hang(upstream: RawUpstream, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Take requests and never answer."""
    await upstream.read_head(reader)
    await reader.read()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


@contextlib.asynccontextmanager
async def app_upstream(*routes: web.AbstractRouteDef) -> AsyncIterator[str]:
    """A real aiohttp application as the upstream; its URL."""
    app = web.Application(client_max_size=0)
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def open_stream(*, is_activated: bool = True) -> OpenStream:
    """The account of a request whose token is good."""
    now = datetime.now(UTC)
    grant = TokenGrant(
        token_id=UUID(int=7),
        user_id=UUID(int=8),
        token_hash=bytes(32),
        duration_hours=24,
        scope="full",
        activated_at=now if is_activated else None,
        expires_at=now + timedelta(hours=24) if is_activated else None,
    )
    return OpenStream(
        Admission(grant=grant, device=Device.of("device-0001"), confirmed_at=0.0, decision=None),
        ip=None,
        user_agent=None,
    )


@dataclass
class Gateway:
    """A gateway that forwards whatever comes, and what it noted of each request."""

    port: int
    connector: UpstreamConnector
    runner: HardenedRunner
    streams: list[OpenStream] = field(default_factory=list)
    finished: asyncio.Queue[OpenStream] = field(default_factory=asyncio.Queue)
    errors: list[str] = field(default_factory=list)
    own: Iterable[tuple[str, str]] = (("X-Token-Expires-At", "2030-01-01T00:00:00Z"),)
    refuses: ZenzefiError | None = None  # raised when the upstream has answered
    is_activated: bool = True  # the token's clock runs before the request
    ends_at_once: StreamEnd | None = None  # each stream's end, from before it goes upstream
    answers: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        stream = open_stream(is_activated=self.is_activated)
        self.streams.append(stream)
        if self.ends_at_once is not None:
            stream.end(self.ends_at_once)
        try:
            return await forward(
                request,
                upstream=request.app[SESSION],
                path=canonicalise(request.raw_path),
                provenance=Provenance(
                    client_ip="203.0.113.9",
                    scheme="https",
                    host="gateway.example",
                    user_id="user-8",
                    token_id="token-7",
                    request_id="request-1",
                ),
                stream=stream,
                on_answer=self.on_answer,
            )
        except ZenzefiError as error:
            self.errors.append(error.code)
            return web.json_response({"code": error.code}, status=error.status, headers=error.headers)
        finally:
            self.finished.put_nowait(stream)

    async def on_answer(self) -> Iterable[tuple[str, str]]:
        self.answers += 1
        if self.refuses is not None:
            raise self.refuses
        return self.own

    async def last(self) -> OpenStream:
        """The account of the request that finished next."""
        async with asyncio.timeout(SOON_S):
            return await self.finished.get()

    async def until_in_use(self, connections: int) -> None:
        """Wait until so many connections to the upstream carry a request."""
        async with asyncio.timeout(SOON_S):
            while self.connector.in_use != connections:  # noqa: ASYNC110  the pool announces nothing
                await asyncio.sleep(0.01)

    async def ask(self, raw: bytes) -> bytes:
        """Send raw bytes on a new connection and give all that comes back until the gateway closes."""
        async with self.connect() as client:
            await client.send(raw)
            return await client.rest()

    def connect(self) -> AbstractAsyncContextManager[Client]:
        return Client.to(self.port)


SESSION = web.AppKey("session", aiohttp.ClientSession)


@contextlib.asynccontextmanager
async def gateway(
    upstream_url: str,
    *,
    connect_s: float = LONG_S,
    head_s: float = LONG_S,
    idle_s: float = LONG_S,
    max_connections: int = 1000,
    breaker: CircuitBreaker | None = None,
) -> AsyncIterator[Gateway]:
    """A gateway on the product's own server, forwarding every path to the upstream without any admission.

    What it waits for without having been told for how long takes longer than any test waits.
    """
    connector = UpstreamConnector(
        URL(upstream_url),
        timeouts=UpstreamTimeouts(connect_s=connect_s, head_s=head_s, idle_s=idle_s),
        max_connections=max_connections,
        breaker=breaker,
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=AUTOMATIC_HEADERS,
    ) as session:
        app = web.Application(client_max_size=0)
        app[SESSION] = session
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        runner = HardenedRunner(app)
        served = Gateway(port=listener.getsockname()[1], connector=connector, runner=runner)
        app.router.add_route("*", "/{path:.*}", served.handle, expect_handler=defer_continue)
        await runner.setup()
        try:
            await web.SockSite(runner, listener).start()
            yield served
        finally:
            await runner.cleanup()
