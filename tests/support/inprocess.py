"""The application in the tests' own process, behind the product's own HTTP protocol."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from zenzefi.app import create_app
from zenzefi.context import Context
from zenzefi.server.runner import HardenedRunner


@asynccontextmanager
async def run_app(ctx: Context) -> AsyncIterator[str]:
    """Serve the application on a free port; the URL."""
    runner = HardenedRunner(create_app(ctx))
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    try:
        await web.SockSite(runner, listening).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        await runner.cleanup()
