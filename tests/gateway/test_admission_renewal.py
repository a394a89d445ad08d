"""What a process knows of a token in use is renewed before it lapses, and nobody waits for that."""

import asyncio
import time
from dataclasses import dataclass, field

import pytest

from tests.support.people import Person
from zenzefi.access.revocation import grant_key
from zenzefi.access.token_format import hash_token
from zenzefi.context import Context
from zenzefi.gateway.admission import Admissions
from zenzefi.gateway.models import Device, Verdict
from zenzefi.gateway.streams import OpenStreams
from zenzefi.gateway.tokens import CACHE_S, RENEW_S, GrantCache

DEVICE = Device.of("device-0001")
OTHER_DEVICE = Device.of("device-0002")
SCOPES = ("full",)
DUE_S = RENEW_S + 0.001  # a sum of floats, less its first part, may be a bit less than the second


@dataclass
class Process:
    """A process's memory of one token, which is asked for in turn; the clock stands still between the steps."""

    ctx: Context
    token_hash: bytes
    now: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.cache = GrantCache(lambda: self.now)
        self.streams = OpenStreams(limit=10, monotonic=lambda: self.now)
        self.admissions = Admissions(self.ctx, cache=self.cache, streams=self.streams, monotonic=lambda: self.now)

    async def judge(self, device: Device = DEVICE) -> Verdict:
        return await self.admissions.judge(token_hash=self.token_hash, device=device, scopes=SCOPES)

    def remembered(self, device: Device = DEVICE) -> Verdict | None:
        return self.admissions.remembered(self.token_hash, device, SCOPES)

    async def work_in_background(self) -> None:
        """Let what was asked for without waiting come to its end."""
        if flights := list(self.admissions._flights._tasks.values()):
            await asyncio.wait(flights, timeout=30)


@pytest.fixture
async def process(ctx: Context, person: Person) -> Process:
    await person.top_up("1.00")
    return Process(ctx, hash_token((await person.buy_token(1))["token"]))


async def test_what_is_believed_is_renewed_while_it_is(process: Process) -> None:
    first = await process.judge()
    asked_at = process.now = process.now + DUE_S
    assert [process.remembered() for _ in range(100)] == [first] * 100
    await process.work_in_background()
    process.now = first.confirmed_at + CACHE_S
    renewed = process.remembered()
    assert renewed is not None
    assert renewed.confirmed_at == asked_at, "its age is counted from before it was asked for"
    process.now = asked_at + CACHE_S
    assert process.remembered() is None, "it lapses as ever where no request comes in time"


async def test_what_is_young_and_what_belongs_to_another_device_is_not_renewed(process: Process) -> None:
    first = await process.judge()
    process.now += RENEW_S / 2
    assert process.remembered() == first
    process.now = first.confirmed_at + DUE_S
    assert process.remembered(OTHER_DEVICE) is None
    await process.work_in_background()
    process.now = first.confirmed_at + CACHE_S
    assert process.remembered() is None


async def test_word_of_a_revocation_beats_a_renewal_that_is_under_way(process: Process) -> None:
    first = await process.judge()
    process.now += DUE_S
    assert process.remembered() == first
    await asyncio.sleep(0)  # it is on its way to Redis
    process.admissions.revoke([process.token_hash])
    assert process.remembered() is None
    await process.work_in_background()
    assert process.remembered() is None


async def test_renewal_finds_a_revocation_that_nobody_announced(process: Process, person: Person) -> None:
    first = await process.judge()
    async with process.ctx.transaction() as conn:
        await conn.execute("UPDATE users SET is_active = false WHERE id = $1::text::uuid", person.user_id)
    await process.ctx.redis.run("DEL", grant_key(process.token_hash))
    process.now += DUE_S
    assert process.remembered() == first
    await process.work_in_background()
    verdict = process.remembered()
    assert verdict is not None
    assert verdict.grant is None
