"""GET /metrics, for Prometheus, on internal ports only."""

import asyncio

from aiohttp import web

from zenzefi.infra.instruments import REGISTRY
from zenzefi.web.auth import public


@public
async def get_metrics(_request: web.Request) -> web.Response:
    """Tell what all processes have counted; any of them gives the same answer."""
    from zenzefi.infra.exposition import CONTENT_TYPE, render  # late: only scrapes need aioprometheus

    blocks = []
    for block in render(REGISTRY):
        blocks.append(block)
        await asyncio.sleep(0)  # a scrape must not hold up requests for as long as it takes
    return web.Response(body="".join(blocks).encode(), headers={"Content-Type": CONTENT_TYPE})


METRICS_ROUTES = (web.get("/metrics", get_metrics),)
