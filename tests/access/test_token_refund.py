"""Giving back unused tokens: the price paid, once, and never for an activated token."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from tests.access.tokens import audit_rows, expire, token_row
from tests.support.inprocess import run_app
from tests.support.people import Person, register
from tests.support.serving import Served
from zenzefi.access import service
from zenzefi.access.errors import TokenRejected
from zenzefi.access.models import TokenGrant
from zenzefi.context import Context
from zenzefi.wallet import service as wallet

RACES = 1000
AT_ONCE = 8  # races in flight; more would only queue for the pool of 10 connections


async def test_an_unused_token_is_refunded_at_the_price_paid(ctx: Context, person: Person) -> None:
    await person.top_up("20.00")
    bought = await person.buy_token(24)
    status, refund = await person.request("DELETE", f"/api/v1/tokens/{bought['id']}")
    assert (status, refund) == (200, {"revoked": True, "refund_amount": "18.00", "new_balance": "20.00"})
    assert await person.balance() == "20.00"
    (entry,) = (await person.get("/api/v1/currency/transactions?transaction_type=refund"))["items"]
    assert (entry["amount"], entry["balance_after"]) == ("18.00", "20.00")
    row = await token_row(ctx, bought["id"])
    assert (row["end_reason"], str(row["refund_transaction_id"])) == ("refunded", entry["id"])
    assert (await person.get(f"/api/v1/tokens/{bought['id']}"))["is_active"] is False


async def test_a_refunded_token_cannot_be_used(ctx: Context, person: Person) -> None:
    await person.top_up("1.00")
    bought = await person.buy_token(1)
    token_hash = (await token_row(ctx, bought["id"]))["token_hash"]
    assert await service.find_grant(ctx, token_hash=token_hash) is not None
    await person.request("DELETE", f"/api/v1/tokens/{bought['id']}")
    assert await service.find_grant(ctx, token_hash=token_hash) is None
    with pytest.raises(TokenRejected):
        await service.activate(ctx, token_id=UUID(bought["id"]))


async def test_a_refund_is_audited(ctx: Context, person: Person) -> None:
    await person.top_up("18.00")
    bought = await person.buy_token(24)
    await person.request("DELETE", f"/api/v1/tokens/{bought['id']}", headers={"User-Agent": "tests/1"})
    (row,) = await audit_rows(ctx, bought["id"], "token.refund")
    assert (str(row["actor_user_id"]), str(row["ip"]), row["user_agent"]) == (person.user_id, "127.0.0.1", "tests/1")
    assert row["before"]["price"] == "18.00"
    assert row["after"] == {"end_reason": "refunded", "refund_amount": "18.00"}


async def test_a_second_refund_is_refused(person: Person) -> None:
    await person.top_up("18.00")
    bought = await person.buy_token(24)
    await person.request("DELETE", f"/api/v1/tokens/{bought['id']}")
    status, problem = await person.request("DELETE", f"/api/v1/tokens/{bought['id']}")
    assert (status, problem["code"], problem["detail"]) == (409, "token_ended", "The token was refunded.")
    assert await person.balance() == "18.00"


async def test_parallel_refunds_pay_once(person: Person) -> None:
    await person.top_up("18.00")
    bought = await person.buy_token(24)
    answers = await asyncio.gather(*(person.request("DELETE", f"/api/v1/tokens/{bought['id']}") for _ in range(20)))
    assert sorted(status for status, _ in answers) == [200] + [409] * 19
    assert await person.balance() == "18.00"


@pytest.mark.parametrize("expired", [False, True])
async def test_an_activated_token_is_not_refunded(ctx: Context, person: Person, expired: bool) -> None:
    await person.top_up("18.00")
    token_id = UUID((await person.buy_token(24))["id"])
    await service.activate(ctx, token_id=token_id)
    if expired:
        await expire(ctx, token_id)
        await service.end_expired_tokens(ctx)
    status, problem = await person.request("DELETE", f"/api/v1/tokens/{token_id}")
    assert (status, problem["code"]) == (409, "token_activated")
    assert await person.balance() == "0.00"
    assert (await person.get(f"/api/v1/tokens/{token_id}"))["is_active"] is not expired


@pytest.mark.parametrize("new_price", ["25.00", "0.01"])
async def test_a_refund_is_the_price_paid_whatever_the_price_is_now(
    ctx: Context, person: Person, new_price: str
) -> None:
    await person.top_up("18.00")
    bought = await person.buy_token(24)
    prices = {**ctx.settings.token_prices, 24: Decimal(new_price)}
    later = replace(ctx, settings=replace(ctx.settings, token_prices=prices))
    async with run_app(later) as url, aiohttp.ClientSession(url) as client:
        buyer = replace(person, client=client)
        status, refund = await buyer.request("DELETE", f"/api/v1/tokens/{bought['id']}")
        assert (status, refund["refund_amount"], refund["new_balance"]) == (200, "18.00", "18.00")
        # The new price is in force: only the refund knows the old one.
        status, answer = await buyer.request("POST", "/api/v1/tokens/purchase", json={"duration_hours": 24})
        assert (status, answer.get("cost_znc")) == ((201, "0.01") if new_price == "0.01" else (402, None))


async def race(ctx: Context, person: Person, token_id: str, lead_s: float) -> tuple[TokenGrant | None, Any]:
    """Activate a token, and refund it `lead_s` later (or before, when negative); what came of each."""

    async def activate() -> TokenGrant | None:
        await asyncio.sleep(max(-lead_s, 0))
        try:
            return await service.activate(ctx, token_id=UUID(token_id))
        except TokenRejected:
            return None

    async def refund() -> Any:
        await asyncio.sleep(max(lead_s, 0))
        status, answer = await person.request("DELETE", f"/api/v1/tokens/{token_id}")
        assert status in (200, 409), answer
        return answer

    grant, answer = await asyncio.gather(activate(), refund())
    return grant, answer


@pytest.mark.timeout(300)
async def test_of_activation_and_refund_exactly_one_wins(
    ctx: Context, serving: Callable[..., AbstractAsyncContextManager[Served]]
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    pauses = random.Random(seed)
    turns = asyncio.Semaphore(AT_ONCE)
    async with serving(processes=2) as served, aiohttp.ClientSession(served.url) as client:
        person = await register(client)
        await person.top_up("1000.00")

        lead_s = 0.0  # by how much activations would win on this machine, now: whoever has just won waits longer

        async def play() -> tuple[str, TokenGrant | None, Any]:
            nonlocal lead_s
            async with turns:
                token_id = (await person.buy_token(1))["id"]
                grant, refund = await race(ctx, person, token_id, pauses.uniform(-0.004, 0.004) - lead_s)
                lead_s += 0.0005 if grant is not None else -0.0005
                return token_id, grant, refund

        results = await asyncio.gather(*(play() for _ in range(RACES)))
        refunded = [token_id for token_id, grant, _ in results if grant is None]
        for token_id, grant, refund in results:
            row = await token_row(ctx, token_id)
            if grant is None:
                assert refund["refund_amount"] == "1.00"
                assert (row["activated_at"], row["end_reason"]) == (None, "refunded")
            else:
                assert refund["code"] == "token_activated"
                assert (row["activated_at"], row["end_reason"]) == (grant.activated_at, None)
        # Were all won by one side, nothing would have raced.
        assert 50 < len(refunded) < RACES - 50, f"{len(refunded)} refunds of {RACES}"
        assert await person.balance() == f"{len(refunded)}.00"
    report = await wallet.verify(ctx)
    assert report.is_sound, report.faults
