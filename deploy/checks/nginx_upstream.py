"""An upstream that can tell whether a stream came to it, or left it, while the rest of it did not exist yet."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Final

from aiohttp import ClientConnectionResetError, WSMsgType, web

from zenzefi.devstack.ports import LOOPBACK

STREAM_BYTES: Final = 1024**3
BLOCK: Final = bytes(range(256)) * 1024  # 256 KiB: large enough that the loop costs little beside the copying
UPSTREAM_LOCATION: Final = "http://web/x"  # as if it was nginx's own name for the web instances
FIRST_BYTES: Final = 1000  # less than any buffer on the way holds


class Upstream:
    """What it saw, and what it waits for."""

    def __init__(self) -> None:
        self.port = 0
        self.first_arrived = asyncio.Event()  # the beginning of an upload
        self.go_on = asyncio.Event()  # the rest of a download may come
        self.size = STREAM_BYTES  # of a download
        self.received = 0
        self.headers: Mapping[str, str] = {}

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{LOOPBACK}:{self.port}"

    async def _download(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.content_length = self.size
        await response.prepare(request)
        with contextlib.suppress(ClientConnectionResetError):
            await response.write(BLOCK[:FIRST_BYTES])
            await self.go_on.wait()
            left = self.size - FIRST_BYTES
            while left > 0:
                await response.write(BLOCK[:left])
                left -= len(BLOCK)
        return response

    async def _upload(self, request: web.Request) -> web.Response:
        self.received = 0
        async for chunk in request.content.iter_any():
            self.received += len(chunk)
            self.first_arrived.set()
        return web.json_response({"bytes": self.received})

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        async for message in websocket:
            if message.type is WSMsgType.TEXT:
                await websocket.send_str(message.data)
        return websocket

    async def _note(self, request: web.Request) -> web.Response:
        self.headers = dict(request.headers)
        # By default nginx obeys the one and rewrites the other.
        return web.json_response({}, headers={"X-Accel-Redirect": "/no/such/route", "Location": UPSTREAM_LOCATION})

    def application(self) -> web.Application:
        """Its routes."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/download", self._download),
                web.post("/upload", self._upload),
                web.get("/websocket", self._websocket),
                web.route("*", "/{path:.*}", self._note),
            ]
        )
        return app


@contextlib.asynccontextmanager
async def run_upstream() -> AsyncIterator[Upstream]:
    """Serve it on the loopback address."""
    upstream = Upstream()
    runner = web.AppRunner(upstream.application(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, 0).start()
        upstream.port = runner.addresses[0][1]
        yield upstream
    finally:
        await runner.cleanup()
