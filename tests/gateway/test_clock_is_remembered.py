"""Once the clock of a token is known to run, no answer from before that hides it: not in Redis, not in the process."""

import dataclasses
import time
from datetime import timedelta

import pytest

from tests.support.people import Person
from zenzefi.access import revocation
from zenzefi.access import service as access
from zenzefi.access.models import TokenGrant
from zenzefi.access.token_format import hash_token
from zenzefi.context import Context
from zenzefi.gateway import tokens
from zenzefi.gateway.models import Device
from zenzefi.gateway.tokens import GrantCache

DEVICE = Device.of("device-0001")


@pytest.fixture
async def unused(ctx: Context, person: Person) -> TokenGrant:
    """A token that nobody has used, as PostgreSQL says."""
    await person.top_up("1.00")
    grant = await access.find_grant(ctx, token_hash=hash_token((await person.buy_token(1))["token"]))
    assert grant is not None
    return grant


def start(ctx: Context, grant: TokenGrant) -> TokenGrant:
    """The same after its first use."""
    return dataclasses.replace(grant, activated_at=ctx.now(), expires_at=ctx.now() + timedelta(hours=1))


async def known_by_redis(ctx: Context, token_hash: bytes) -> TokenGrant | None:
    return (await tokens.recall(ctx, token_hash=token_hash)).grant


async def test_redis_keeps_a_running_clock(ctx: Context, unused: TokenGrant) -> None:
    await tokens.remember(ctx, token_hash=unused.token_hash, grant=unused, age_s=1.0)
    assert await known_by_redis(ctx, unused.token_hash) == unused
    used = start(ctx, unused)
    await tokens.remember(ctx, token_hash=unused.token_hash, grant=used, age_s=0.5)
    assert await known_by_redis(ctx, unused.token_hash) == used
    await tokens.remember(ctx, token_hash=unused.token_hash, grant=unused)
    assert await known_by_redis(ctx, unused.token_hash) == used
    later = dataclasses.replace(used, scope="read")
    await tokens.remember(ctx, token_hash=unused.token_hash, grant=later)
    assert await known_by_redis(ctx, unused.token_hash) == later, "a fresher copy takes its place as ever"
    await revocation.announce(ctx, token_hashes=[unused.token_hash])
    await tokens.remember(ctx, token_hash=unused.token_hash, grant=later)
    assert await known_by_redis(ctx, unused.token_hash) is None


async def test_a_process_keeps_a_running_clock(ctx: Context, unused: TokenGrant) -> None:
    cache, used = GrantCache(), start(ctx, unused)
    for grant, expected in ((unused, unused), (used, used), (unused, used), (None, None), (unused, unused)):
        cache.put(unused.token_hash, grant, holder=DEVICE, confirmed_at=time.monotonic())
        found = cache.find(unused.token_hash)
        assert found is not None
        assert found.grant == expected
