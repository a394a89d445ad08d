"""Fixtures of usage: a database of one's own, since a roll-up takes everybody's batches."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from zenzefi.context import Context, open_context
from zenzefi.settings import Settings


@pytest.fixture
async def own(settings: Settings, fresh_database: str) -> AsyncIterator[Context]:
    async with open_context(replace(settings, postgres_db=fresh_database)) as ctx:
        yield ctx
