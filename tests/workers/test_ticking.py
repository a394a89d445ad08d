"""The clock of the workers: each instant once, whoever sees it, and nothing that matters is forgotten."""

import dataclasses
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime, time, timedelta
from typing import Any

import pytest

from workers.scheduling import Line, daily, every
from workers.ticking import Ticker, cron_id
from zenzefi.context import Context, open_context
from zenzefi.infra import facts
from zenzefi.infra.clock import Clock
from zenzefi.infra.queue import open_queue_client, queue_key
from zenzefi.jobs import Job, Queue
from zenzefi.settings import Settings

JOB = Job.SEAL_AUDIT_LOG
NIGHTLY = Job.INSPECT_LEDGER


async def _nothing(_ctx: Context) -> None:
    return None


class _Hands(Clock):
    """A clock that the test moves."""

    def __init__(self, now: datetime) -> None:
        super().__init__()
        self.time = now

    def now(self) -> datetime:
        return self.time


def _clocked(ctx: Context) -> tuple[Context, _Hands]:
    hands = _Hands(ctx.now())
    return dataclasses.replace(ctx, clock=hands), hands


@pytest.fixture
async def pool(worker_ctx: Context) -> AsyncIterator[Any]:
    async with aclosing(open_queue_client(worker_ctx.settings)) as client:
        yield client


async def _waiting(pool: Any, queue: Queue) -> list[str]:
    return [raw.decode() for raw in await pool.zrange(queue_key(queue), 0, -1)]


async def _done(pool: Any, job: Job, queue: Queue) -> None:
    """What a worker does to the queue at the end of a run."""
    await pool.zrem(queue_key(queue), cron_id(job))
    await pool.delete(f"arq:job:{cron_id(job)}")


def _line(**more: Any) -> Line:
    return every(10.0, JOB, _nothing, **more)


async def test_each_instant_is_enqueued_once_by_many(worker_ctx: Context, pool: Any) -> None:
    now = worker_ctx.now()
    contexts = [_clocked(worker_ctx) for _ in range(4)]
    for _, hands in contexts:
        hands.time = now
    tickers = [Ticker(ctx, pool, [_line()]) for ctx, _ in contexts]
    runs = 0
    for second in range(1, 61):
        # One falls back by seconds and one by more than an interval.
        for (_, hands), late_s in zip(contexts, (0, 0, 3, 14), strict=True):
            hands.time = now + timedelta(seconds=max(0, second - late_s))
        for ticker in tickers:
            await ticker.tick()
            if await _waiting(pool, Queue.DEFAULT):
                runs += 1
                await _done(pool, JOB, Queue.DEFAULT)
    assert runs == 6


async def test_what_takes_longer_than_its_interval_does_not_pile_up(worker_ctx: Context, pool: Any) -> None:
    ctx, hands = _clocked(worker_ctx)
    ticker = Ticker(ctx, pool, [_line()])
    for _ in range(5):
        hands.time += timedelta(seconds=10)
        await ticker.tick()
    assert await _waiting(pool, Queue.DEFAULT) == [cron_id(JOB)]


async def test_a_start_makes_up_for_an_instant_only_where_the_line_says_so(worker_ctx: Context, pool: Any) -> None:
    worker_ctx, _ = _clocked(worker_ctx)  # no instant may pass between the start and the look
    await Ticker(worker_ctx, pool, [_line()]).tick()
    assert await _waiting(pool, Queue.DEFAULT) == []
    for _ in range(2):
        await Ticker(worker_ctx, pool, [_line(at_start=True)]).tick()
        assert (await _waiting(pool, Queue.DEFAULT)) == [cron_id(JOB)]


async def test_a_clock_that_jumps_for_and_back_does_not_stop_the_schedule(worker_ctx: Context, pool: Any) -> None:
    ctx, hands = _clocked(worker_ctx)
    now = hands.time
    ticker = Ticker(ctx, pool, [_line()])
    for jump in (timedelta(days=60), timedelta(0), timedelta(days=-60), timedelta(0)):
        hands.time = now + jump
        await ticker.tick()
    await _done(pool, JOB, Queue.DEFAULT)
    hands.time = now + timedelta(seconds=10)
    await ticker.tick()
    assert await _waiting(pool, Queue.DEFAULT) == [cron_id(JOB)]


async def test_a_nightly_job_that_was_missed_is_made_up_for_once(
    worker_env: dict[str, str], pool: Any, fresh_database: str
) -> None:
    async with open_context(Settings.from_env(worker_env | {"POSTGRES_DB": fresh_database})) as ctx:
        due = ctx.now().replace(second=0, microsecond=0) - timedelta(hours=1)
        line = daily(NIGHTLY, _nothing, at=time(due.hour, due.minute))
        tickers = [Ticker(ctx, pool, [line]) for _ in range(2)]

        async def catch_up(*, last_success: datetime | None) -> list[str]:
            if last_success is not None:
                async with ctx.connection() as conn:
                    document: dict[str, Any] = {"last_success": last_success.timestamp()}
                    await facts.merge(conn, name=f"job:{NIGHTLY}", document=document, at=ctx.now())
            for ticker in tickers:
                await ticker.catch_up()
            return await _waiting(pool, Queue.HEAVY)

        assert await catch_up(last_success=None) == [], "it never ran: a new installation waits for the night"
        assert await catch_up(last_success=due + timedelta(seconds=20)) == []
        assert await catch_up(last_success=due - timedelta(hours=23)) == [cron_id(NIGHTLY)]
        await pool.flushall()
        assert await catch_up(last_success=None) == [cron_id(NIGHTLY)], "Redis forgot it"
