"""Each batch counts exactly once in its hour and its day, whoever rolls up, and whatever is sent again."""

import asyncio
import random
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest

from tests.rollups.batches import FakeMeter, insert, left_over, random_usage, rolled_up, store, truth, used
from tests.support.servers import Cluster
from workers.jobs import rollups as jobs
from zenzefi.context import Context
from zenzefi.gateway.metering import Batch
from zenzefi.rollups import queries, service


async def check(ctx: Context, batches: list[Batch]) -> None:
    for by_day in (False, True):
        assert await rolled_up(ctx, by_day=by_day) == truth(batches, by_day=by_day)


async def test_totals_are_the_truth_when_many_roll_up_while_meters_store_and_send_again(
    own: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ROLL_UP_BATCH", 7)  # many transactions
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    source = random.Random(seed)
    people = [(user_id, uuid4()) for user_id in (uuid4() for _ in range(3)) for _ in range(2)]
    stored: list[Batch] = []

    async def count() -> None:
        meter = FakeMeter()
        for _ in range(40):
            batch = meter.batch(own, *random_usage(source, people))
            times = source.randrange(1, 4)
            assert sum(await asyncio.gather(*(store(own, batch) for _ in range(times)))) == 1
            stored.append(batch)

    done = asyncio.Event()

    async def roll_up() -> None:
        while not done.is_set():
            await jobs.roll_up_usage(own)
            await asyncio.sleep(0)

    rolling = [asyncio.create_task(roll_up()) for _ in range(4)]
    await asyncio.gather(*(count() for _ in range(5)))
    done.set()
    await asyncio.gather(*rolling)
    await jobs.roll_up_usage(own)
    assert await left_over(own) == 0
    await check(own, stored)


async def test_a_row_that_two_transactions_take_counts_once_without_the_lock_too(own: Context) -> None:
    batch = FakeMeter().batch(own, used(uuid4(), uuid4(), requests=3))
    await store(own, batch)
    async with own.transaction() as first, own.transaction() as second:
        assert await queries.roll_up(first, limit=10) == 1
        waiting = asyncio.create_task(queries.roll_up(second, limit=10))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await first.execute("COMMIT")
        assert await waiting == 0
        await first.execute("BEGIN")  # for the context to end
    await check(own, [batch])


async def test_a_roll_up_that_does_not_commit_changes_nothing(own: Context) -> None:
    batch = FakeMeter().batch(own, used(uuid4(), uuid4()))
    await store(own, batch)
    async with own.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        assert await queries.roll_up(conn, limit=10) == 1
        await transaction.rollback()
    assert await left_over(own) == 1
    await check(own, [])


async def test_a_batch_that_is_sent_again_changes_nothing_before_and_after_its_roll_up(own: Context) -> None:
    meter = FakeMeter()
    first, second = (meter.batch(own, used(uuid4(), uuid4())) for _ in range(2))
    assert await store(own, first)
    assert not await store(own, first)
    await jobs.roll_up_usage(own)
    assert not await store(own, first)
    assert await store(own, second)
    for batch in (first, second):
        assert not await store(own, batch)
    await jobs.roll_up_usage(own)
    assert await left_over(own) == 0
    await check(own, [first, second])


async def test_a_batch_that_is_sent_again_beside_its_own_commit_waits_and_changes_nothing(own: Context) -> None:
    batch = FakeMeter().batch(own, used(uuid4(), uuid4()))
    async with own.transaction() as conn:
        assert await insert(conn, own, batch)
        again = asyncio.create_task(store(own, batch))
        await asyncio.sleep(0.1)
        assert not again.done()
    assert not await again
    await jobs.roll_up_usage(own)
    await check(own, [batch])


async def test_a_late_batch_counts(own: Context) -> None:
    user_id, token_id = uuid4(), uuid4()
    late = FakeMeter().batch(own, used(user_id, token_id, hours_ago=70))  # its id is older, and so is its hour
    newer = FakeMeter().batch(own, used(user_id, token_id), used(user_id, token_id, hours_ago=70))
    await store(own, newer)
    assert await jobs.roll_up_usage(own) == 2
    await store(own, late)
    assert await jobs.roll_up_usage(own) == 1
    assert await jobs.roll_up_usage(own) == 0
    await check(own, [newer, late])


async def test_a_batch_of_no_usage_is_new_once(own: Context) -> None:
    batch = FakeMeter().batch(own)
    assert await store(own, batch)
    assert not await store(own, batch)


async def test_old_months_are_dropped_and_no_others(own: Context, cluster: Cluster, fresh_database: str) -> None:
    owner = await cluster.connect(fresh_database)
    try:
        await owner.execute(f"SET ROLE {cluster.owner}")
        for table in ("usage_hourly", "usage_daily", "usage_batches"):
            await owner.execute(f"SELECT create_month_partitions('{table}', now() - interval '60 months', 60)")
        await owner.execute(
            "INSERT INTO usage_batches SELECT uuid7_floor(now() - $1 * interval '1 day'), gen_random_uuid(), "
            "gen_random_uuid(), now(), 'served', 1, 1, 1",
            200,
        )
        dropped = await jobs.drop_old_usage(own)
        assert dropped > 100
        assert await jobs.drop_old_usage(own) == 0
        for table, days in (("usage_hourly", 90), ("usage_daily", 1100)):
            names = await _months(owner, table)
            oldest = own.now() - timedelta(days=days)
            assert names[0] == f"{table}_{oldest:%Y_%m}"
        assert f"usage_batches_{own.now() - timedelta(days=200):%Y_%m}" in await _months(owner, "usage_batches")
        assert await left_over(own) == 1
        # Whatever the application asks for, two months stay.
        async with own.connection() as conn:
            await queries.drop_old_usage(conn, hourly_days=1, daily_days=-5)
        for table in ("usage_hourly", "usage_daily"):
            assert (await _months(owner, table))[0] == f"{table}_{own.now() - timedelta(days=45):%Y_%m}"
    finally:
        await owner.close()


async def _months(owner: "asyncpg.Connection[asyncpg.Record]", table: str) -> list[str]:
    rows = await owner.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::text::regclass ORDER BY 1",
        table,
    )
    return [row["name"] for row in rows if not row["name"].endswith("_default")]


async def test_meters_of_processes_that_are_long_gone_are_forgotten(own: Context) -> None:
    old, young = FakeMeter(), FakeMeter()
    for meter in (old, young):
        await store(own, meter.batch(own))
    async with own.connection() as conn:
        await conn.execute("UPDATE usage_meters SET at = now() - interval '91 days' WHERE meter_id = $1", old.meter_id)
        await jobs.drop_old_usage(own)
        rows = await conn.fetch("SELECT meter_id FROM usage_meters")
    assert [row["meter_id"] for row in rows] == [young.meter_id]
