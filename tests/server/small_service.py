"""What the processes of the supervisor's tests serve: the small application."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.server.support import small_app
from zenzefi.server.service import Service
from zenzefi.settings import Settings


@asynccontextmanager
async def open_service(_settings: Settings) -> AsyncIterator[Service]:
    # How a test has one start, and holds the others back until it makes the second file.
    if order := os.environ.get("FIRST_AND_OTHERS", ""):
        first, others = map(Path, order.split(":"))
        try:
            first.touch(exist_ok=False)
        except FileExistsError:
            while not others.exists():  # noqa: ASYNC110  another process makes it
                await asyncio.sleep(0.01)
    # How a test breaks the processes that start from now on, as a bad deployment would.
    broken = os.environ.get("BROKEN_WHEN_EXISTS", "")
    if broken and Path(broken).exists():
        raise RuntimeError("the new code is broken")
    yield Service(public=small_app(), internal=small_app(), on_drain=lambda: None)
