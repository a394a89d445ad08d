"""kill -9 of whoever counts and whoever sums: at most one flush interval is missing, and nothing counts twice."""

import asyncio
import os
import random
import signal
import sys
from itertools import pairwise
from time import monotonic
from uuid import UUID, uuid4

import aiohttp
import psutil
import pytest

from tests.gateway.stack import ask, buy, connect
from tests.rollups.batches import FakeMeter, left_over, random_usage, rolled_up, store, truth
from tests.support.serving import serve
from zenzefi.context import Context
from zenzefi.gateway.metering import FLUSH_S, Batch
from zenzefi.rollups import service
from zenzefi.rollups.models import Bucket

# A flush begins FLUSH_S after the one before has ended; the rest is for two flushes on a busy machine, the one before,
# which may have begun before a request was counted, and the one that the kill breaks off.
FORGOTTEN_S = FLUSH_S + 1.0


@pytest.fixture
def own_env(env: dict[str, str], fresh_database: str) -> dict[str, str]:
    return {**os.environ, **env, "POSTGRES_DB": fresh_database}


async def start_roller(env: dict[str, str]) -> asyncio.subprocess.Process:
    roller = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.rollups.roller", env=env, stdout=asyncio.subprocess.PIPE
    )
    assert roller.stdout is not None
    assert await roller.stdout.readline() == b"ready\n"
    return roller


async def test_totals_are_the_truth_after_roll_ups_are_killed(own: Context, own_env: dict[str, str]) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    source = random.Random(seed)
    people = [(uuid4(), uuid4()) for _ in range(4)]
    meter, stored = FakeMeter(), list[Batch]()
    done = asyncio.Event()

    async def count() -> None:
        while not done.is_set():
            stored.append(meter.batch(own, *random_usage(source, people)))
            assert await store(own, stored[-1])

    counting = asyncio.create_task(count())
    for _ in range(3):
        rollers = await asyncio.gather(start_roller(own_env), start_roller(own_env))
        await asyncio.sleep(source.uniform(0.05, 0.3))
        while not await rolled_up(own, by_day=False):  # noqa: ASYNC110  they tell nobody what they did
            await asyncio.sleep(0.01)
        for roller in rollers:
            roller.send_signal(signal.SIGKILL)
            assert await roller.wait() == -signal.SIGKILL
    done.set()
    await counting
    # A backend whose client was killed ends its transaction when it notices; until then it holds the lock.
    deadline = monotonic() + 60
    while await left_over(own):
        assert monotonic() < deadline
        await service.roll_up_usage(own)
    for by_day in (False, True):
        assert await rolled_up(own, by_day=by_day) == truth(stored, by_day=by_day)


async def test_a_killed_web_process_forgets_at_most_one_flush_interval(
    own: Context, own_env: dict[str, str], upstream_url: str
) -> None:
    limits = {"RATE_LIMIT_AUTH": "off", "RATE_LIMIT_API": "off", "RATE_LIMIT_PROXY": "off"}
    ended: list[float] = []  # when each request had its answer
    unanswered = 0
    async with (
        serve({**own_env, **limits, "ZENZEFI_TARGET_URL": upstream_url}, processes=1) as served,
        connect(served.url, fresh=True) as session,
    ):
        person, [token] = await buy(session)
        rolling = asyncio.create_task(roll_up_for_ever(own))
        kills: list[float] = []
        for _ in range(3):
            until = monotonic() + 3.0
            # A kill right after the machine stood still would meet a flush that is late, and not by our doing.
            while monotonic() < until or not _went_smoothly(ended):
                try:
                    assert (await ask(session, token)).status == 200
                    ended.append(monotonic())
                except aiohttp.ClientError:
                    unanswered += 1  # the process died, and the next is on its way
                    await asyncio.sleep(0.02)
            if len(kills) < 2:
                [process] = psutil.Process(served.process.pid).children()
                kills.append(monotonic())
                process.kill()
        await served.stop()  # the last process stores what it counted
        rolling.cancel()
        await asyncio.wait([rolling])
    await service.roll_up_usage(own)
    report = await service.report_usage(
        own, user_id=UUID(person.user_id), token_id=None, begin=None, end=None, bucket=Bucket.DAY
    )
    counted = sum(item.requests for item in report.items)
    fresh = sum(any(kill - FORGOTTEN_S <= at <= kill for kill in kills) for at in ended)
    print(f"{len(ended)} answered, {unanswered} not, {counted} counted, {fresh} in the last interval before a kill")
    assert len(ended) > 20  # however busy the machine is
    assert len(ended) - fresh <= counted <= len(ended) + unanswered


def _went_smoothly(ended: list[float]) -> bool:
    """The requests that a kill may take with it had their answers one soon after the other."""
    recent = [at for at in [*ended, monotonic()] if at >= monotonic() - FORGOTTEN_S]
    return all(after - before < 0.4 for before, after in pairwise(recent))


async def roll_up_for_ever(ctx: Context) -> None:
    while True:
        await service.roll_up_usage(ctx)
        await asyncio.sleep(0.05)
