"""The connections at hand: whoever asks gets one that works, nobody is forgotten, and none is lost."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from zenzefi.errors import DatabaseUnavailable
from zenzefi.infra import lending
from zenzefi.infra.db import Database, open_database
from zenzefi.infra.instruments import DB_CONNECTIONS
from zenzefi.settings import Settings

MOST = 3


@pytest.fixture
async def pooled(settings: Settings) -> AsyncIterator[Database]:
    async with open_database(replace(settings, postgres_pool_size=MOST)) as opened:
        yield opened


async def backend(database: Database) -> int:
    async with database.connection() as connection:
        return int(await connection.fetchval("SELECT pg_backend_pid()"))


async def test_a_connection_that_came_back_is_lent_again(pooled: Database) -> None:
    assert len({await backend(pooled) for _ in range(5)}) == 1


async def test_those_who_wait_are_served_in_the_order_in_which_they_came(pooled: Database) -> None:
    served: list[int] = []

    async def ask(number: int) -> None:
        async with pooled.connection() as connection:
            served.append(number)
            await connection.execute("SELECT pg_sleep(0.01)")

    await asyncio.gather(*map(ask, range(30)))
    assert sorted(served) == list(range(30))
    # The first ones had to connect, and one of them may have been done before another's connection was open.
    assert [number for number in served if number >= MOST] == list(range(MOST, 30))


async def test_no_connection_is_lost_or_lent_twice_while_queries_fail_and_are_given_up(pooled: Database) -> None:
    chance = random.Random(7)
    lent: set[int] = set()
    most = 0
    all_lent = asyncio.Barrier(MOST)

    async def connect() -> None:
        async with pooled.connection():
            await all_lent.wait()

    # To connect may take longer than some of those below have patience.
    await asyncio.gather(*(connect() for _ in range(MOST)))

    async def ask() -> None:
        nonlocal most
        async with pooled.connection() as connection:
            pid = int(await connection.fetchval("SELECT pg_backend_pid()"))
            assert pid not in lent
            lent.add(pid)
            most = max(most, len(lent))
            try:
                match chance.randrange(4):
                    case 0:
                        await connection.fetchval("SELECT 1 / 0")
                    case 1:
                        await connection.execute("SELECT pg_sleep(0.05)")
                    case 2:
                        await connection.execute("BEGIN")
            finally:
                lent.discard(pid)

    async def ask_or_give_up() -> None:
        try:
            async with asyncio.timeout(chance.uniform(0.001, 0.3)):
                await ask()
        except (TimeoutError, DatabaseUnavailable, asyncpg.DivisionByZeroError):
            pass  # which is what is tried here

    for _ in range(5):
        await asyncio.gather(*(ask_or_give_up() for _ in range(40)))
    assert most == MOST
    async with asyncio.timeout(30):
        pids = await asyncio.gather(*(backend(pooled) for _ in range(4 * MOST)))
        async with pooled.connection() as connection:
            assert not connection.is_in_transaction()
    assert len(set(pids)) <= MOST


async def test_a_connection_that_broke_while_it_was_at_hand_is_replaced(pooled: Database, settings: Settings) -> None:
    is_broken = asyncio.Event()
    async with pooled.connection() as kept:
        pid = int(await kept.fetchval("SELECT pg_backend_pid()"))
        kept.add_termination_listener(lambda _: is_broken.set())
    async with open_database(settings) as other, other.connection() as connection:
        assert await connection.fetchval("SELECT pg_terminate_backend($1, 10000)", pid)
    async with asyncio.timeout(30):
        await is_broken.wait()  # the event loop has read of it
    pooled.sample()
    in_use = DB_CONNECTIONS.labels("in_use")
    assert in_use.cells[in_use.at] == 0
    assert await backend(pooled) != pid


async def test_whoever_finds_all_in_use_is_told_so_in_time(pooled: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    given, are_lent = asyncio.Event(), asyncio.Barrier(MOST + 1)

    async def keep() -> None:
        async with pooled.connection():
            await are_lent.wait()
            await given.wait()

    keepers = [asyncio.create_task(keep()) for _ in range(MOST)]
    await are_lent.wait()
    monkeypatch.setattr(lending, "ACQUIRE_TIMEOUT_S", 0.1)
    with pytest.raises(DatabaseUnavailable):
        async with asyncio.timeout(5), pooled.connection():
            pass
    given.set()
    await asyncio.gather(*keepers)
    assert await backend(pooled)


async def open_pool(settings: Settings, *, max_size: int, max_queries: int = 50_000) -> "asyncpg.Pool[asyncpg.Record]":
    """A pool for a lender of its own."""
    return await asyncpg.create_pool(
        host=settings.postgres_server,
        port=settings.postgres_port,
        user=settings.postgres_user,
        password=settings.postgres_password,
        database=settings.postgres_db,
        min_size=1,
        max_size=max_size,
        max_queries=max_queries,
    )


async def test_who_was_promised_a_place_that_another_one_took_gets_what_came_back_meanwhile(settings: Settings) -> None:
    pool = await open_pool(settings, max_size=2)
    lender = lending.Lender(pool)
    broken, sound = await lender.lend(), await lender.lend()
    waiting = asyncio.create_task(lender.lend())
    await asyncio.sleep(0)
    broken.terminate()
    # One after the other in the same turn of the event loop.
    frees_a_place = asyncio.create_task(lender.take_back(broken, is_in_order=False))
    takes_the_place = asyncio.create_task(lender.lend())
    gives_back = asyncio.create_task(lender.take_back(sound, is_in_order=True))
    lent = await asyncio.gather(takes_the_place, waiting)
    assert lent[1] is sound
    await asyncio.gather(frees_a_place, gives_back)
    for connection in lent:
        await lender.take_back(connection, is_in_order=True)
    await lender.close()
    await pool.close()


async def test_connections_at_hand_go_back_to_the_pool_after_a_while(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "KEEP_S", 0.05)
    pool = await open_pool(settings, max_size=1, max_queries=2)  # after which it closes the connection
    lender = lending.Lender(pool)
    first = await lender.lend()
    is_closed = asyncio.Event()
    first.add_termination_listener(lambda _: is_closed.set())
    pid = await first.fetchval("SELECT pg_backend_pid()")
    await first.fetchval("SELECT 1")
    await lender.take_back(first, is_in_order=True)
    again = await lender.lend()
    assert again is first
    await lender.take_back(again, is_in_order=True)
    async with asyncio.timeout(30):
        await is_closed.wait()
    renewed = await lender.lend()
    assert await renewed.fetchval("SELECT pg_backend_pid()") != pid
    await lender.take_back(renewed, is_in_order=True)
    await lender.close()
    await pool.close()


async def test_nobody_waits_for_ever_when_the_pool_is_closed(settings: Settings) -> None:
    async with open_database(replace(settings, postgres_pool_size=1)) as database:
        is_lent, is_told = asyncio.Event(), asyncio.Event()

        async def keep() -> None:
            async with database.connection():
                is_lent.set()
                await is_told.wait()

        keeper = asyncio.create_task(keep())
        await is_lent.wait()
        waiting = asyncio.create_task(backend(database))
        waiting.add_done_callback(lambda _: is_told.set())
        await asyncio.sleep(0.05)
    assert waiting.done()
    with pytest.raises(DatabaseUnavailable):
        await waiting
    await keeper
