"""The clock follows the database and nothing else."""

import time
from datetime import UTC, datetime, timedelta

from zenzefi.context import Context
from zenzefi.infra.clock import Clock


async def test_clock_agrees_with_the_database(ctx: Context) -> None:
    took_s: list[float] = []

    async def read() -> datetime:
        started = time.monotonic()
        found = await ctx.db.read_time()
        took_s.append(time.monotonic() - started)
        return found

    await ctx.clock.synchronise(read)
    async with ctx.connection() as conn:
        before = await conn.fetchval("SELECT clock_timestamp()")
        told = ctx.now()
        after = await conn.fetchval("SELECT clock_timestamp()")
    # Half of the quickest round trip is what cannot be known; the rest is for the work around it.
    slack = timedelta(seconds=min(took_s) / 2 + 0.005)
    assert before - slack <= told <= after + slack


async def test_clock_takes_the_quickest_of_its_round_trips() -> None:
    moments = iter([0.0, 2.0, 10.0, 10.2, 20.0, 21.0, 30.0])
    clock = Clock(monotonic=lambda: next(moments))
    answers = iter([1000.0, 1010.1, 1021.9])

    async def read() -> datetime:
        return datetime.fromtimestamp(next(answers), UTC)

    await clock.synchronise(read)
    # The second trip took 0.2 s, so the server's 1010.1 stood at its middle, 10.1: an offset of 1000 s.
    assert abs(clock.epoch_s() - 1030.0) < 1e-6
