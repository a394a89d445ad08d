"""The application in the tests' own process, behind the product's own HTTP protocol."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from zenzefi.app import create_app
from zenzefi.context import Context


@asynccontextmanager
async def run_app(ctx: Context) -> AsyncIterator[str]:
    """Serve the application on a free port; the URL."""
    runner = web.AppRunner(create_app(ctx), access_log=None, auto_decompress=False)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()
