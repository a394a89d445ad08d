"""GET /metrics, for Prometheus, on internal ports only."""

import asyncio

from aiohttp import web

from zenzefi.infra import business_instruments, instruments, state_instruments
from zenzefi.web.auth import public

# Named here so that all of them are declared wherever they are shown: what another process counts, too.
_DECLARED = (instruments, business_instruments, state_instruments)


@public
async def get_metrics(_request: web.Request) -> web.Response:
    """Tell what all processes have counted; any of them gives the same answer."""
    from zenzefi.infra.exposition import CONTENT_TYPE, render  # late: only scrapes need aioprometheus

    blocks = []
    for block in render(instruments.REGISTRY):
        blocks.append(block)
        await asyncio.sleep(0)  # a scrape must not hold up requests for as long as it takes
    return web.Response(body="".join(blocks).encode(), headers={"Content-Type": CONTENT_TYPE})


METRICS_ROUTES = (web.get("/metrics", get_metrics),)
