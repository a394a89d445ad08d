"""Idempotency keys over several processes, and over processes that die between the commit and the reply."""

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import psutil
import pytest
from yarl import URL

from tests.support.people import Person
from tests.support.servers import Cluster
from tests.support.serving import Served
from tests.wallet.ledger import until_a_lock_is_waited_for
from zenzefi.context import Context

MOCK_PURCHASE = "/api/v1/currency/mock-purchase"
RETRY_TIMEOUT_S = 60.0
# The trigger of `stalled_commits` waits for this advisory lock.
STALL_LOCK = 4242

Serving = Callable[..., AbstractAsyncContextManager[Served]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a client got, and whether it had to ask again after losing a connection."""

    status: int
    body: bytes
    is_replay: bool
    lost_replies: int = 0


async def send(url: str, person: Person, key: str, amount: str) -> Answer:
    """One top-up on a connection of its own, so that the processes share the requests out."""
    headers = {**person.headers, "Idempotency-Key": key, "Connection": "close"}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as client,
        client.post(url + MOCK_PURCHASE, json={"amount": amount}, headers=headers) as response,
    ):
        body = await response.read()
        return Answer(status=response.status, body=body, is_replay="Idempotency-Replayed" in response.headers)


async def insist(url: str, person: Person, key: str, amount: str) -> Answer:
    """Send until there is an answer of success, as a careful client does: the same key each time."""
    lost_replies = 0
    async with asyncio.timeout(RETRY_TIMEOUT_S):
        while True:
            try:
                answer = await send(url, person, key, amount)
            except aiohttp.ClientError:
                lost_replies += 1
            else:
                if answer.status == 201:
                    return Answer(status=201, body=answer.body, is_replay=answer.is_replay, lost_replies=lost_replies)
                assert answer.status in (409, 503), answer
            await asyncio.sleep(0.05)


def children(served: Served) -> list[psutil.Process]:
    """The web processes that live."""
    processes = psutil.Process(served.process.pid).children()
    return [process for process in processes if process.status() != psutil.STATUS_ZOMBIE]


async def until_all_serve(served: Served) -> None:
    """Wait for the last process to start: one that is lost before that ends the start, on purpose."""
    async with asyncio.timeout(60):
        while True:
            if '"event": "serving"' in served.log:
                return
            await asyncio.sleep(0.02)


async def deposits_of(ctx: Context, person: Person) -> dict[str, Decimal]:
    """What the database holds of a person's deposits, by transaction id."""
    async with ctx.connection() as conn:
        rows = await conn.fetch(
            """
            SELECT transaction_id, amount FROM ledger_postings
            WHERE account_id = (SELECT id FROM ledger_accounts WHERE user_id = $1)
            """,
            UUID(person.user_id),
        )
    return {str(row["transaction_id"]): row["amount"] for row in rows}


async def test_same_key_in_parallel_over_processes_has_one_effect(
    person: Person, ctx: Context, serving: Serving
) -> None:
    async with serving(processes=4) as served:
        await until_all_serve(served)
        for _ in range(5):
            key, before = uuid4().hex, await deposits_of(ctx, person)
            answers = await asyncio.gather(*(send(served.url, person, key, "5.00") for _ in range(20)))
            assert {answer.status for answer in answers} <= {201, 409}
            for answer in answers:
                if answer.status == 409:
                    assert json.loads(answer.body)["code"] == "idempotency_in_progress"
            made = [answer for answer in answers if answer.status == 201]
            assert len([answer for answer in made if not answer.is_replay]) == 1
            last = await send(served.url, person, key, "5.00")
            assert (last.status, last.is_replay) == (201, True)
            assert {answer.body for answer in made} == {last.body}
            deposits = await deposits_of(ctx, person)
            assert deposits.keys() - before.keys() == {json.loads(last.body)["id"]}


@pytest.mark.timeout(240)
async def test_journal_of_clients_equals_the_database_when_processes_are_killed(
    person: Person, ctx: Context, serving: Serving
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    journal: dict[str, Answer] = {}
    for _ in range(4):
        async with serving(processes=3) as served:
            await until_all_serve(served)
            for _ in range(5):
                journal |= await _top_up_while_a_process_is_killed(served, person, chance)
            journal |= await _top_up_while_the_busiest_process_is_killed(served, person, ctx)
    deposits = await deposits_of(ctx, person)
    acknowledged = {json.loads(answer.body)["id"]: json.loads(answer.body)["amount"] for answer in journal.values()}
    assert len(acknowledged) == len(journal)
    assert {transaction_id: f"{amount:.2f}" for transaction_id, amount in deposits.items()} == acknowledged
    # Without these the test would have shown nothing. Some of them are lost after the commit, as a rule.
    lost = [answer for answer in journal.values() if answer.lost_replies]
    print("requests", len(journal), "lost", len(lost), "lost after commit", sum(answer.is_replay for answer in lost))
    assert lost


async def _top_up_while_a_process_is_killed(served: Served, person: Person, chance: random.Random) -> dict[str, Answer]:
    amounts = {key: f"{chance.randint(1, 9999) / 100:.2f}" for key in _keys(24)}
    victim = chance.choice(children(served))
    async with asyncio.TaskGroup() as group:
        tasks = {key: group.create_task(insist(served.url, person, key, amount)) for key, amount in amounts.items()}
        await asyncio.sleep(chance.uniform(0.005, 0.1))
        victim.send_signal(signal.SIGKILL)
        await asyncio.to_thread(victim.wait, 30)  # the next round must not choose it again
    return {key: task.result() for key, task in tasks.items()}


async def _top_up_while_the_busiest_process_is_killed(
    served: Served, person: Person, ctx: Context
) -> dict[str, Answer]:
    """Nobody is answered before the kill: replies are lost, and not only by chance."""
    async with asyncio.TaskGroup() as group, ctx.transaction() as conn:
        await conn.execute("SELECT 1 FROM ledger_accounts WHERE user_id = $1 FOR UPDATE", UUID(person.user_id))
        tasks = {key: group.create_task(insist(served.url, person, key, "1.00")) for key in _keys(24)}
        await until_a_lock_is_waited_for(ctx)
        victim = max(children(served), key=lambda process: _clients(process, served))
        assert _clients(victim, served)
        victim.send_signal(signal.SIGKILL)
        await asyncio.to_thread(victim.wait, 30)
    return {key: task.result() for key, task in tasks.items()}


def _keys(count: int) -> list[str]:
    return [uuid4().hex for _ in range(count)]


def _clients(process: psutil.Process, served: Served) -> int:
    """How many connections of clients a web process has."""
    port = URL(served.url).port
    connections = process.net_connections("tcp")
    return sum(link.laddr.port == port and link.status == psutil.CONN_ESTABLISHED for link in connections)


@pytest.fixture
async def stalled_commits(cluster: Cluster, database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection that stalls, while it holds STALL_LOCK, every commit that stores an answer."""
    connection = await cluster.connect(database)
    await connection.execute(
        f"""
        CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_advisory_xact_lock_shared({STALL_LOCK}); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER stall AFTER INSERT ON idempotency_keys
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION stall();
        """
    )
    await connection.execute("SELECT pg_advisory_lock($1)", STALL_LOCK)
    yield connection
    await connection.execute("SELECT pg_advisory_unlock_all()")
    await connection.execute("DROP TRIGGER stall ON idempotency_keys; DROP FUNCTION stall()")
    await connection.close()


async def test_answer_is_replayed_when_the_process_dies_between_commit_and_reply(
    person: Person, ctx: Context, serving: Serving, stalled_commits: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    key = uuid4().hex
    async with serving(processes=1) as served:
        first = asyncio.create_task(send(served.url, person, key, "5.00"))
        await until_a_lock_is_waited_for(ctx)
        assert await deposits_of(ctx, person) == {}
        (process,) = children(served)
        process.send_signal(signal.SIGSTOP)  # it can take no notice of the commit any more
        await stalled_commits.execute("SELECT pg_advisory_unlock($1)", STALL_LOCK)
        await _until_there_is_a_deposit(ctx, person)
        process.send_signal(signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await first
        answer = await insist(served.url, person, key, "5.00")
    assert answer.is_replay
    assert await deposits_of(ctx, person) == {json.loads(answer.body)["id"]: Decimal("5.00")}


async def test_nothing_is_left_when_the_process_dies_before_the_commit(
    person: Person, ctx: Context, serving: Serving
) -> None:
    key = uuid4().hex
    await person.top_up("1.00")
    async with serving(processes=1) as served:
        async with ctx.transaction() as conn:
            await conn.execute("SELECT 1 FROM ledger_accounts WHERE user_id = $1 FOR UPDATE", UUID(person.user_id))
            first = asyncio.create_task(send(served.url, person, key, "5.00"))
            await until_a_lock_is_waited_for(ctx)
            (process,) = children(served)
            process.send_signal(signal.SIGKILL)
            with pytest.raises(aiohttp.ClientError):
                await first
        answer = await insist(served.url, person, key, "5.00")
    assert not answer.is_replay
    deposits = await deposits_of(ctx, person)
    assert sorted(deposits.values()) == [Decimal("1.00"), Decimal("5.00")]
    assert json.loads(answer.body)["id"] in deposits


async def _until_there_is_a_deposit(ctx: Context, person: Person) -> None:
    async with asyncio.timeout(30):
        while True:
            if await deposits_of(ctx, person):
                return
            await asyncio.sleep(0.005)  # the server has no event for it
