"""GET /metrics of one worker, on a port of its own."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Final

import structlog
from aiohttp import web

from zenzefi.server.errors import ServerError
from zenzefi.server.listening import listen
from zenzefi.server.runner import HardenedRunner
from zenzefi.server.site import SharedSite
from zenzefi.settings import Settings
from zenzefi.web.metrics import METRICS_ROUTES

# A predecessor that drains still holds the port.
RETRY_S: Final = 2.0

log = structlog.get_logger("zenzefi.worker")


@contextlib.asynccontextmanager
async def serve_metrics(settings: Settings) -> AsyncIterator[None]:
    """Serve them meanwhile, as soon as the port can be had; jobs run without that, too."""
    serving = asyncio.ensure_future(_serve(settings)) if settings.worker_metrics_port else None
    try:
        yield
    finally:
        if serving is not None:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving


async def _serve(settings: Settings) -> None:
    app = web.Application()
    app.add_routes(METRICS_ROUTES)
    runner = HardenedRunner(app)
    await runner.setup()
    try:
        with await _listen(settings) as listener:
            await SharedSite(runner, listener).start()
            await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def _listen(settings: Settings) -> socket.socket:
    reason = ""
    while True:
        try:
            return listen(
                settings.internal_host,
                settings.worker_metrics_port,
                variables=("INTERNAL_HOST", "WORKER_METRICS_PORT"),
            )
        except ServerError as error:
            if str(error) != reason:
                reason = str(error)
                log.warning("metrics_not_served", reason=reason, again_in_s=RETRY_S)
        await asyncio.sleep(RETRY_S)
