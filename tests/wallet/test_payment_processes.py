"""Payments over several processes: events many times, out of order, before their payment, and through kill -9."""

import asyncio
import contextlib
import os
import random
from collections import Counter, deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from uuid import UUID

import aiohttp
import psutil
import pytest

from tests.support.serving import Served
from tests.wallet.ledger import insert_user
from tests.wallet.payments import RETURN_URL, deliver, report_of
from zenzefi.audit.models import Actor
from zenzefi.context import Context
from zenzefi.settings import PaymentProviderName
from zenzefi.wallet import payment_queries, service
from zenzefi.wallet.payment_models import Payment, PaymentStatus
from zenzefi.wallet.providers.mock import webhook_secrets
from zenzefi.wallet.settlement import settle

# A run by hand takes more: PAYMENTS=10000.
PAYMENTS = int(os.environ.get("PAYMENTS", "60"))
MOST_DELIVERIES = 20
AT_ONCE = 24
KILLS = 3
# In place of a status: the process died before it answered.
GONE = 0
Serving = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.mark.timeout(240 + PAYMENTS / 10)
async def test_every_payment_is_credited_once_whatever_happens_to_its_events(ctx: Context, serving: Serving) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    user_id = await insert_user(ctx)
    payment_ids = [ctx.new_id() for _ in range(PAYMENTS)]
    events = [
        (payment_id, status)
        for payment_id in payment_ids
        for status in _events(chance)
        for _ in range(chance.randint(1, MOST_DELIVERIES))
    ]
    chance.shuffle(events)
    kill_at = {len(events) * number // (KILLS + 1) for number in range(1, KILLS + 1)}
    refusals: Counter[int] = Counter()
    # A connection for each event: kept ones would all stay with the process that was idle first.
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        serving(processes=2, POSTGRES_POOL_SIZE="5") as served,
        aiohttp.ClientSession(served.url, connector=connector) as client,
    ):
        queue, delivered, early = deque(events), 0, asyncio.Event()

        async def deliver_them() -> None:
            """Deliver what is due; what is not answered with 200 is delivered again, after all that waits already."""
            nonlocal delivered
            while queue:
                event = queue.popleft()
                status = await _deliver(client, ctx, *event)
                if status != 200:
                    refusals[status] += 1
                    queue.append(event)
                    if status == 404:
                        early.set()
                    await asyncio.sleep(0.02)
                delivered += 1
                if delivered in kill_at:
                    _kill_busiest(served)

        async with asyncio.timeout(180 + PAYMENTS / 10), asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(deliver_them())
            await early.wait()  # or processes that begin slowly would find every payment there
            for payment_id in chance.sample(payment_ids, len(payment_ids)):
                await _insert(ctx, user_id, payment_id)
                await asyncio.sleep(chance.random() * 0.01)
        log = await served.stop()
    print(f"{len(events)} events of {PAYMENTS} payments; not taken at first: {dict(refusals)}")
    assert refusals[404] > 0, "some events came before their payment"
    assert set(refusals) <= {404, 503, GONE}
    await _assert_credited_once(ctx, user_id, payment_ids)
    for secret in (*webhook_secrets(ctx.settings), ctx.settings.secret_key, ctx.settings.postgres_password):
        assert secret not in log
    assert "Traceback" not in log


async def test_payments_and_credits_are_as_many(ctx: Context) -> None:
    user_ids = [await insert_user(ctx) for _ in range(20)]
    owners = {ctx.new_id(): user_ids[number % len(user_ids)] for number in range(5 * PAYMENTS)}
    room = asyncio.Semaphore(ctx.settings.postgres_pool_size // 2)

    async def begin_and_settle(payment_id: UUID) -> int:
        async with room:
            await _insert(ctx, owners[payment_id], payment_id)
            report, actor = report_of(payment_id), Actor.system()
            twice = (settle(ctx, provider=PaymentProviderName.MOCK, report=report, actor=actor) for _ in range(2))
            return sum(await asyncio.gather(*twice))

    async with asyncio.timeout(90 + PAYMENTS / 10):
        changes = await asyncio.gather(*(begin_and_settle(payment_id) for payment_id in owners))
    assert set(changes) == {1}
    for user_id in user_ids:
        await _assert_credited_once(ctx, user_id, [each for each, owner in owners.items() if owner == user_id])


def _events(chance: random.Random) -> list[PaymentStatus]:
    """What a provider might tell of a payment that ends paid, in whatever order."""
    before = [PaymentStatus.PENDING, PaymentStatus.CANCELED, PaymentStatus.EXPIRED]
    return [PaymentStatus.SUCCEEDED, *chance.sample(before, chance.choice([0, 0, 0, 1]))]


async def _deliver(client: aiohttp.ClientSession, ctx: Context, payment_id: UUID, status: PaymentStatus) -> int:
    try:
        return (await deliver(client, ctx, report_of(payment_id, status)))[0]
    except (aiohttp.ClientError, OSError):
        return GONE


async def _insert(ctx: Context, user_id: UUID, payment_id: UUID) -> None:
    payment = Payment(
        id=payment_id,
        user_id=user_id,
        provider=PaymentProviderName.MOCK,
        provider_payment_id=None,
        status=PaymentStatus.PENDING,
        amount_znc=Decimal("10.00"),
        amount=Decimal("100.00"),
        currency="RUB",
        return_url=RETURN_URL,
        payment_url=None,
        created_at=ctx.now(),
    )
    async with ctx.transaction() as conn:
        await payment_queries.insert_payment(conn, payment=payment, next_check_at=ctx.now())


def _kill_busiest(served: Served) -> None:
    """kill -9 for the web process with the most connections; the supervisor starts another."""
    connections = {}
    for child in psutil.Process(served.process.pid).children():
        with contextlib.suppress(psutil.Error):  # one that was killed before, and that nobody has waited for yet
            connections[child] = len(child.net_connections())
    max(connections, key=connections.__getitem__).kill()


async def _assert_credited_once(ctx: Context, user_id: UUID, payment_ids: list[UUID]) -> None:
    async with ctx.connection() as conn:
        credited = await conn.fetch(
            """
            SELECT ledger_transaction.payment_id, count(*) AS times, min(payment.status) AS status
            FROM ledger_transactions AS ledger_transaction
            INNER JOIN payments AS payment ON payment.id = ledger_transaction.payment_id
            WHERE payment.user_id = $1
            GROUP BY ledger_transaction.payment_id
            """,
            user_id,
        )
    assert {row["payment_id"]: (row["times"], row["status"]) for row in credited} == dict.fromkeys(
        payment_ids, (1, "succeeded")
    )
    assert await service.get_balance(ctx, user_id=user_id) == 10 * len(payment_ids)
    assert (await service.verify(ctx)).is_sound
