"""A process that rolls usage up, again and again, until it is killed: `python -m tests.rollups.roller`."""

import asyncio

from zenzefi.context import open_context
from zenzefi.rollups import service
from zenzefi.settings import Settings

service.ROLL_UP_BATCH = 3  # type: ignore[misc]  # most of the time it is in the middle of something


async def roll_up_for_ever() -> None:
    async with open_context(Settings.from_env()) as ctx:
        print("ready", flush=True)
        while True:
            await service.roll_up_usage(ctx)


if __name__ == "__main__":
    asyncio.run(roll_up_for_ever())
