"""A process of its own that activates one token many times at once, for the tests of activation.

It says "ready", waits for a line, and answers with the expiry of every grant that it got, one a line.
"""

import asyncio
import sys
from uuid import UUID

from zenzefi.access import service
from zenzefi.access.models import TokenGrant
from zenzefi.context import open_context
from zenzefi.settings import Settings


async def main(token_id: UUID, times: int) -> None:
    async with open_context(Settings.from_env()) as ctx:
        # As many at once as there are connections: waiting for one ends in DatabaseUnavailable on a busy machine.
        connections = asyncio.Semaphore(ctx.settings.postgres_pool_size)

        async def activate() -> TokenGrant:
            async with connections:
                return await service.activate(ctx, token_id=token_id)

        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        grants = await asyncio.gather(*(activate() for _ in range(times)))
        for grant in grants:
            print(grant.activated_at, grant.expires_at, sep="|", flush=True)


if __name__ == "__main__":
    asyncio.run(main(UUID(sys.argv[1]), int(sys.argv[2])))
