"""No acknowledged write is lost: what clients were told against the database, after web, worker, postmaster died."""

import asyncio
import os
import random
from collections import Counter
from pathlib import Path
from uuid import UUID

import aiohttp
import pytest

from tests.support.people import register
from tests.wallet.journal import Client, Journal, Movement
from tests.wallet.killable import Killable, Victim, run_killable
from zenzefi.context import Context, open_context
from zenzefi.settings import Settings
from zenzefi.wallet import service

# A run by hand takes more: KILLS=60, and SEED to choose the same victims again.
KILLS = int(os.environ.get("KILLS", "12"))
CLIENTS = 6


@pytest.mark.timeout(120 + 20 * KILLS)
async def test_acknowledged_writes_outlive_kill_9_of_web_worker_and_postmaster(
    env: dict[str, str], tmp_path: Path
) -> None:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(2**32))
    print("seed", seed)
    journal = Journal()
    async with run_killable(env, tmp_path) as killable:
        killed = await _write_while_killing(killable, journal, random.Random(seed))
        await killable.until_whole()
        async with open_context(Settings.from_env(killable.env)) as ctx:
            await _assert_money_is_as_acknowledged(ctx, journal)
            await _assert_audit_log_is_whole(ctx, journal)
            report = await service.verify(ctx)
    print(
        "kills",
        {victim.value: times for victim, times in killed.items()},
        "acknowledged",
        journal.size,
        "given up",
        journal.given_up.total(),
    )
    print("lost replies", journal.lost_replies, "refused", dict(journal.refused), "replayed", journal.replayed)
    assert report.is_sound, report
    assert set(killed) == set(Victim)
    # Without these the test would have shown nothing: the database was missed.
    assert journal.refused[503]


async def _write_while_killing(killable: Killable, journal: Journal, chance: random.Random) -> Counter[Victim]:
    """Let clients write, and kill something each time after some acknowledged writes, while others are under way."""
    victims = [list(Victim)[number % len(Victim)] for number in range(KILLS)]
    chance.shuffle(victims)
    await killable.until_whole()
    superuser_token = await _make_superuser(killable)
    clients = [
        Client(killable.served.url, journal=journal, superuser_token=superuser_token, seed=chance.randrange(2**32))
        for _ in range(CLIENTS)
    ]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run())
        for victim in victims:
            await journal.grow_by(chance.randint(3, 20))
            await asyncio.sleep(chance.uniform(0, 0.02))  # anywhere within a request, not just after an answer
            await killable.kill(victim, chance)
        await journal.grow_by(CLIENTS)
        for client in clients:
            client.stop.set()
    return Counter(victims)


async def _make_superuser(killable: Killable) -> str:
    async with (
        aiohttp.ClientSession(killable.served.url) as client,
        open_context(Settings.from_env(killable.env)) as ctx,
    ):
        person = await register(client)
        async with ctx.transaction() as conn:
            await conn.execute("UPDATE users SET is_superuser = true WHERE id = $1", UUID(person.user_id))
    return person.access_token


async def _assert_money_is_as_acknowledged(ctx: Context, journal: Journal) -> None:
    async with ctx.connection() as conn:
        tokens = await conn.fetch(
            "SELECT id, purchase_transaction_id AS purchase_id, refund_transaction_id AS refund_id FROM access_tokens"
        )
        postings = await conn.fetch(
            """
            SELECT posting.transaction_id, account.user_id, posting.transaction_type, posting.amount
            FROM ledger_postings AS posting INNER JOIN ledger_accounts AS account ON account.id = posting.account_id
            WHERE account.kind = 'wallet'
            """
        )
        users = await conn.fetch("SELECT id, username FROM users WHERE NOT is_superuser")
    # Every registration and purchase was insisted on: as many are there as were acknowledged, and the same ones.
    assert {row["username"]: str(row["id"]) for row in users}.items() >= journal.users.items()
    assert {str(row["id"]) for row in tokens} == journal.purchases.keys()
    assert {str(row["id"]) for row in tokens if row["refund_id"] is not None} == journal.refunds.keys()
    acknowledged = dict(journal.movements)
    for row in tokens:
        acknowledged[str(row["purchase_id"])] = journal.purchases[str(row["id"])]
        if row["refund_id"] is not None:
            acknowledged[str(row["refund_id"])] = journal.refunds[str(row["id"])]
    # Each had a transaction of its own, none of which is written twice: with (transaction, account) as the key, a
    # second posting for a wallet could only be in another transaction, and would be left over below.
    assert len(acknowledged) == len(journal.movements) + len(journal.purchases) + len(journal.refunds)
    written = {
        str(row["transaction_id"]): Movement(
            user_id=str(row["user_id"]), kind=row["transaction_type"], amount=f"{row['amount']:.2f}"
        )
        for row in postings
    }
    assert len(written) == len(postings)
    assert {number: written.get(number) for number in acknowledged} == acknowledged
    unacknowledged = Counter(movement for number, movement in written.items() if number not in acknowledged)
    assert unacknowledged <= journal.given_up, unacknowledged - journal.given_up


async def _assert_audit_log_is_whole(ctx: Context, journal: Journal) -> None:
    """Each write that is in the database has one row of its own, and no row tells of a write that is not."""
    async with ctx.connection() as conn:
        rows = await conn.fetch(
            "SELECT action, coalesce(after->>'transaction_id', resource_id) AS subject, count(*) AS times"
            " FROM audit_log GROUP BY 1, 2"
        )
        moved = await conn.fetch("SELECT id, transaction_type FROM ledger_transactions")
    logged = {(row["action"], row["subject"]): row["times"] for row in rows}
    actions = {"deposit": "wallet.mock_purchase", "adjustment": "wallet.adjust"}
    expected = {
        (actions[row["transaction_type"]], str(row["id"])) for row in moved if row["transaction_type"] in actions
    }
    expected |= {("token.purchase", token_id) for token_id in journal.purchases}
    expected |= {("token.refund", token_id) for token_id in journal.refunds}
    told = {action for action, _ in expected}
    assert {key: times for key, times in logged.items() if key[0] in told} == dict.fromkeys(expected, 1)
    registered = {("user.register", user_id) for user_id in journal.users.values()}
    assert {logged.get(key) for key in registered} == {1}
