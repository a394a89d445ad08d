"""A process that hands mails in, again and again, until it is killed: `python -m tests.mail.sender`."""

import asyncio

from zenzefi.context import open_context
from zenzefi.mail.sending import send_due
from zenzefi.settings import Settings


async def send_for_ever() -> None:
    async with open_context(Settings.from_env()) as ctx:
        while True:
            await send_due(ctx)
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(send_for_ever())
