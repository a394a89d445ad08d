"""A superuser for each test that wants one."""

import aiohttp
import pytest

from tests.admin.superusers import make_superuser
from tests.support.people import Person
from zenzefi.context import Context


@pytest.fixture
async def superuser(ctx: Context, client: aiohttp.ClientSession) -> Person:
    """Somebody who may do everything, signed in."""
    return await make_superuser(ctx, client)
