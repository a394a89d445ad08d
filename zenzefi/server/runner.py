"""Runs an application behind the hardened protocol: the set of its connections, their sweep, and their drain."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import aiohttp.http_parser
import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from zenzefi.server.deadlines import Deadlines
from zenzefi.server.errors import ServerError
from zenzefi.server.framing import HeadLimits
from zenzefi.server.protocol import HardenedProtocol
from zenzefi.web.direct import DIRECT_ROUTES, DirectRoute

_DRAIN_POLL_S = 0.05
_CUT_TIMEOUT_S = 1.0  # for handlers to take their cancellation when a drain's time is up

# The sweep must not hold up the requests of others: looking at a connection takes a microsecond, refusing one with its
# response and its log line a hundred. A crowd that came together, 2,000 say, is sent away over a third of a second.
_LOOKED_AT_AT_ONCE = 512
_CLOSED_AT_ONCE = 32
_CLOSED_PAUSE_S = 0.005

log = structlog.get_logger(__name__)


class HardenedServer(web.Server):
    """The connections of one listening socket, with the sweep that ends the slow ones."""

    def __init__(
        self, plain: web.Server, *, deadlines: Deadlines, limits: HeadLimits, direct: list[DirectRoute]
    ) -> None:
        """Take over the handler and the request factory of the server that aiohttp made for an application."""
        super().__init__(_dispatcher(direct, plain.request_handler) if direct else plain.request_handler)
        self.deadlines = deadlines
        self.limits = limits
        self.draining = False
        self.drain_linger_s = deadlines.linger_s  # these two may change while a drain is on
        self.drain_deadline = float("inf")  # in the event loop's time
        self._inner_factory = plain.request_factory
        self.request_factory = self._begin_request
        self._sweeper = self._loop.create_task(self._sweep_for_ever())

    def __call__(self) -> HardenedProtocol:
        """Make a protocol for a new connection."""
        return HardenedProtocol(self, loop=self._loop)

    def _begin_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        message = cast("HardenedProtocol", protocol).begin(message, writer)
        return self._inner_factory(message, payload, protocol, writer, task)

    def _protocols(self) -> list[HardenedProtocol]:
        return cast("list[HardenedProtocol]", self.connections)

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.deadlines.sweep_s)
            closed = 0
            for looked_at, protocol in enumerate(self._protocols(), 1):
                try:
                    closed += protocol.sweep(self._loop.time(), self.deadlines)
                except Exception:
                    log.exception("sweep_failed")  # of one connection; the others must be swept all the same
                if closed == _CLOSED_AT_ONCE:
                    closed = 0
                    await asyncio.sleep(_CLOSED_PAUSE_S)
                elif looked_at % _LOOKED_AT_AT_ONCE == 0:
                    await asyncio.sleep(0)

    async def drain(self) -> int:
        """Let every request that has begun be answered, then close; returns how many connections had to be cut.

        The listening socket must be closed before. Idle connections get `drain_linger_s`, in which a request that was
        on its way is still served; from now on every response says ``Connection: close``. What is left is up to the
        caller at `drain_deadline`.
        """
        self.draining = True
        for protocol in self._protocols():
            protocol.announce_close()
        while self._connections and self._loop.time() < self.drain_deadline:
            now = self._loop.time()
            for protocol in self._protocols():
                protocol.close_if_idle(now, linger_s=self.drain_linger_s)
            await asyncio.sleep(_DRAIN_POLL_S)
        return len(self._connections)

    async def shutdown(self, timeout: float | None = None) -> None:
        """Cut what is left."""
        self._sweeper.cancel()
        await super().shutdown(timeout)


class HardenedRunner(web.AppRunner):
    """Runs an application behind the hardened protocol.

    Raises ServerError when aiohttp runs without its C parser, whose strictness the framing relies on.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        deadlines: Deadlines | None = None,
        limits: HeadLimits | None = None,
    ) -> None:
        if aiohttp.http_parser.HttpRequestParser.__module__ != "aiohttp._http_parser":
            raise ServerError(
                "aiohttp runs without its C extension. Unset AIOHTTP_NO_EXTENSIONS, or install aiohttp's binary wheel."
            )
        super().__init__(app, shutdown_timeout=_CUT_TIMEOUT_S)
        self._deadlines = deadlines or Deadlines()
        self._limits = limits or HeadLimits()

    async def _make_server(self) -> web.Server:
        return HardenedServer(
            await super()._make_server(),
            deadlines=self._deadlines,
            limits=self._limits,
            direct=self.app.get(DIRECT_ROUTES, []),
        )

    def hurry(self, *, linger_s: float, timeout_s: float) -> None:
        """Say how long, from now, idle connections and all others outlive the start of a drain; also while one is on.

        The limit for all is only ever lowered: asked to stop, a process does not get more time than it had.
        """
        server = self.server
        if isinstance(server, HardenedServer):
            server.drain_linger_s = linger_s
            deadline = asyncio.get_running_loop().time() + timeout_s
            server.drain_deadline = min(server.drain_deadline, deadline)

    async def drain(self, *, timeout_s: float | None = None) -> int:
        """Stop accepting, then drain the connections; see HardenedServer.drain. Call cleanup() afterwards."""
        server = self.server
        if isinstance(server, HardenedServer) and timeout_s is not None:
            server.drain_deadline = asyncio.get_running_loop().time() + timeout_s
        for site in self.sites:
            await site.stop()
        return await server.drain() if isinstance(server, HardenedServer) else 0


def _dispatcher(
    direct: list[DirectRoute], application: Callable[[Any], Awaitable[Any]]
) -> Callable[[Any], Awaitable[Any]]:
    def dispatch(request: Any) -> Awaitable[Any]:
        for route in direct:
            if route.takes(request):
                return route.handle(request)
        return application(request)

    return dispatch
