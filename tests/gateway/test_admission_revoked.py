"""What a process says of a token whose end it has just heard of, when nothing else that it remembers knows of it."""

import asyncio
import time

import pytest

from tests.support.people import Person
from zenzefi.access.token_format import hash_token
from zenzefi.context import Context
from zenzefi.gateway.admission import Admissions
from zenzefi.gateway.models import Admission, Device, StreamEnd, Verdict
from zenzefi.gateway.streams import OpenStream, OpenStreams
from zenzefi.gateway.sweeps import RECHECK_AGE_S, StreamSweeps
from zenzefi.gateway.tokens import GrantCache

DEVICE = Device.of("device-0001")


@pytest.fixture
async def token_hash(person: Person) -> bytes:
    await person.top_up("1.00")
    return hash_token((await person.buy_token(1))["token"])


class CountedStreams(OpenStreams):
    """Counts how often it is asked about a revocation."""

    asked = 0

    def revoked_since(self, token_hash: bytes, instant: float) -> bool:
        self.asked += 1
        return super().revoked_since(token_hash, instant)


async def judge_promptly(admissions: Admissions, token_hash: bytes) -> Verdict:
    """The verdict; whoever asks until the memory lapses, and lets nothing else run meanwhile, asks very often."""
    streams = admissions._streams
    assert isinstance(streams, CountedStreams)
    before = streams.asked
    verdict = await admissions.judge(token_hash=token_hash, device=DEVICE, scopes=("full",))
    assert streams.asked - before < 10
    return verdict


async def test_a_remembered_verdict_from_before_the_end_is_asked_for_anew(ctx: Context, token_hash: bytes) -> None:
    cache, streams = GrantCache(), CountedStreams(limit=10)
    admissions = Admissions(ctx, cache=cache, streams=streams)
    before = await judge_promptly(admissions, token_hash)
    streams.revoke([token_hash])
    after = await judge_promptly(admissions, token_hash)
    assert after.confirmed_at > before.confirmed_at
    assert await judge_promptly(admissions, token_hash) == after, "it is remembered again"


async def test_a_token_that_a_sweep_finds_ended_is_forgotten_with_its_streams(
    ctx: Context, person: Person, token_hash: bytes
) -> None:
    cache, streams = GrantCache(), CountedStreams(limit=10)
    admissions = Admissions(ctx, cache=cache, streams=streams)
    verdict = await judge_promptly(admissions, token_hash)
    assert verdict.grant is not None
    confirmed_at = time.monotonic() - RECHECK_AGE_S - 1
    admission = Admission(grant=verdict.grant, device=DEVICE, confirmed_at=confirmed_at, decision=None)
    stream = OpenStream(admission, ip=None, user_agent=None)
    streams.open(stream)
    async with ctx.transaction() as conn:
        await conn.execute("UPDATE users SET is_active = false WHERE id = $1::text::uuid", person.user_id)
    await StreamSweeps(ctx, admissions=admissions, streams=streams).recheck()
    assert stream.end_reason is StreamEnd.REVOKED
    assert cache.find(token_hash) is None
    await judge_promptly(admissions, token_hash)


async def test_a_revocation_in_the_middle_of_an_answer_has_it_asked_for_again(ctx: Context, token_hash: bytes) -> None:
    cache, streams = GrantCache(), CountedStreams(limit=10)
    admissions = Admissions(ctx, cache=cache, streams=streams)
    asked = asyncio.create_task(judge_promptly(admissions, token_hash))
    for _ in range(2):  # until it is on its way to Redis
        await asyncio.sleep(0)
    admissions.revoke([token_hash])
    revoked_at = time.monotonic()
    assert (await asked).confirmed_at > revoked_at
