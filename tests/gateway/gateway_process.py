"""Serve `gateway(UPSTREAM_URL)` on uvloop: `python -m tests.gateway.gateway_process UPSTREAM_URL` prints its port."""

import asyncio
import sys

import uvloop

from tests.gateway.upstreams import gateway


async def main() -> None:
    async with gateway(sys.argv[1]) as served:
        print(served.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
