"""Fixtures of the gateway's tests."""

from collections.abc import AsyncIterator

import pytest

from tests.gateway.stack import Servers, run_servers


@pytest.fixture(scope="module")
async def servers() -> AsyncIterator[Servers]:
    """Servers that the tests of one file may break; each test leaves them running."""
    async with run_servers() as running:
        yield running
