"""The wallet through its front door."""

import dataclasses
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from tests.support.inprocess import run_app
from tests.support.people import Person, register
from tests.wallet.ledger import credit, debit
from zenzefi.context import Context
from zenzefi.settings import Environment, PaymentProviderName
from zenzefi.wallet.models import MAX_BALANCE

BALANCE = "/api/v1/currency/balance"
TRANSACTIONS = "/api/v1/currency/transactions"
MOCK_PURCHASE = "/api/v1/currency/mock-purchase"


async def test_new_person_has_nothing(person: Person) -> None:
    assert await person.get(BALANCE) == {"balance": "0.00", "currency": "ZNC"}
    assert await person.get(TRANSACTIONS) == {"items": [], "next_cursor": None}


async def test_mock_purchase_tops_up_and_is_audited(person: Person, ctx: Context) -> None:
    deposit = await person.top_up("18.50")
    assert deposit == {
        "id": deposit["id"],
        "amount": "18.50",
        "transaction_type": "deposit",
        "description": "Mock purchase",
        "payment_id": None,
        "balance_after": "18.50",
        "created_at": deposit["created_at"],
    }
    assert abs((ctx.now() - datetime.fromisoformat(deposit["created_at"])).total_seconds()) < 60
    assert await person.balance() == "18.50"
    assert await person.get(TRANSACTIONS) == {"items": [deposit], "next_cursor": None}
    async with ctx.connection() as conn:
        row = await conn.fetchrow(
            "SELECT action, actor_kind, actor_user_id, after FROM audit_log WHERE resource_id = $1", deposit["id"]
        )
    assert row is not None
    assert (row["action"], row["actor_kind"], str(row["actor_user_id"])) == (
        "wallet.mock_purchase",
        "user",
        person.user_id,
    )
    assert row["after"] == {"user_id": person.user_id, "amount": "18.50", "balance_after": "18.50"}


@pytest.mark.parametrize(
    ("spelling", "amount"),
    [
        ('"18.50"', "18.50"),
        ('"18.5"', "18.50"),
        ('"18"', "18.00"),
        ("18.50", "18.50"),
        ("18", "18.00"),
        ('"0.01"', "0.01"),
    ],
)
async def test_amount_may_be_a_string_or_an_exact_number(person: Person, spelling: str, amount: str) -> None:
    status, deposit = await _post_raw(person, f'{{"amount": {spelling}}}')
    assert (status, deposit["amount"]) == (201, amount)


@pytest.mark.parametrize(
    "spelling",
    [
        *("0", "-1", "0.001", "NaN", "Infinity", "-Infinity", "1e400", "9223372036854775808", "100000.01", "1e-400"),
        *("true", "false", "null", "[]", "{}", "[1]", "1e999999999", "1e-999999999"),
        *('"0"', '"-1"', '"0.001"', '"NaN"', '"Infinity"', '"1e400"', '"1e2"', '"9223372036854775808"', '""', '" 1"'),
        *('"1,50"', '"1\\u0000"', '"\\u0661"', '"0x10"', '"1_000"', '"\\ud800"'),
    ],
)
async def test_amounts_that_are_no_money_are_422(person: Person, spelling: str) -> None:
    status, problem = await _post_raw(person, f'{{"amount": {spelling}}}')
    assert (status, problem["code"], list(problem["errors"])) == (422, "invalid", ["amount"])
    assert await person.balance() == "0.00"


@pytest.mark.parametrize(
    ("body", "field"), [("{}", "amount"), ('{"amount": "1.00", "balance": "9.00"}', "balance")], ids=["none", "unknown"]
)
async def test_body_has_an_amount_and_nothing_else(person: Person, body: str, field: str) -> None:
    status, problem = await _post_raw(person, body)
    assert (status, list(problem["errors"])) == (422, [field])


async def _post_raw(person: Person, body: str) -> tuple[int, Any]:
    return await person.request("POST", MOCK_PURCHASE, data=body.encode(), headers={"Content-Type": "application/json"})


async def test_full_wallet_is_409(person: Person, ctx: Context) -> None:
    await credit(ctx, UUID(person.user_id), MAX_BALANCE)
    status, problem = await person.request("POST", MOCK_PURCHASE, json={"amount": "0.01"})
    assert (status, problem["code"]) == (409, "wallet_full")
    assert await person.balance() == "999999999999.99"


async def test_history_pages_join_without_gap_or_repeat(person: Person, ctx: Context) -> None:
    user_id = UUID(person.user_id)
    made = [await credit(ctx, user_id, Decimal("1000.00")) for _ in range(5)]
    made += [await debit(ctx, user_id, Decimal("1.25")) for _ in range(40)]
    listed, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        page = await person.get(TRANSACTIONS, params={"limit": 20, **({"cursor": cursor} if cursor else {})})
        listed += page["items"]
        cursor, pages = page["next_cursor"], pages + 1
    assert pages == 3
    assert [item["id"] for item in listed] == [str(entry.transaction_id) for entry in reversed(made)]
    assert [item["amount"] for item in listed] == [f"{entry.amount:.2f}" for entry in reversed(made)]


async def test_history_is_filtered_by_type(person: Person, ctx: Context) -> None:
    deposit = await person.top_up("5.00")
    purchase = await debit(ctx, UUID(person.user_id), (await credit(ctx, UUID(person.user_id), Decimal("3.00"))).amount)
    page = await person.get(TRANSACTIONS, params={"transaction_type": "purchase"})
    assert [item["id"] for item in page["items"]] == [str(purchase.transaction_id)]
    page = await person.get(TRANSACTIONS, params={"transaction_type": "deposit", "limit": 1})
    assert page["next_cursor"] is not None
    page = await person.get(
        TRANSACTIONS, params={"transaction_type": "deposit", "limit": 1, "cursor": page["next_cursor"]}
    )
    assert page == {"items": [deposit], "next_cursor": None}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("transaction_type", "gift"),
        ("transaction_type", ""),
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "1.0"),
        ("cursor", "!"),
        ("cursor", "LTE"),
        ("cursor", "OTIyMzM3MjAzNjg1NDc3NTgwOA"),
        ("page", "2"),
    ],
)
async def test_bad_query_is_422(person: Person, name: str, value: str) -> None:
    status, problem = await person.request("GET", TRANSACTIONS, params={name: value})
    assert (status, list(problem["errors"])) == (422, [name])


async def test_wallets_are_private(client: aiohttp.ClientSession, person: Person) -> None:
    await person.top_up("7.00")
    stranger = await register(client)
    assert await stranger.balance() == "0.00"
    assert (await stranger.get(TRANSACTIONS))["items"] == []
    for method, path in [("GET", BALANCE), ("GET", TRANSACTIONS), ("POST", MOCK_PURCHASE)]:
        async with client.request(method, path, json={"amount": "1.00"}) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("environment", "provider"),
    [
        (Environment.PRODUCTION, PaymentProviderName.MOCK),
        (Environment.PRODUCTION, PaymentProviderName.NONE),
        (Environment.DEVELOPMENT, PaymentProviderName.NONE),
    ],
)
async def test_mock_purchase_does_not_exist_elsewhere(
    ctx: Context, person: Person, environment: Environment, provider: PaymentProviderName
) -> None:
    settings = dataclasses.replace(ctx.settings, environment=environment, payment_provider=provider)
    async with run_app(dataclasses.replace(ctx, settings=settings)) as url, aiohttp.ClientSession(url) as client:
        for headers in (person.headers, {}):
            async with client.post(MOCK_PURCHASE, json={"amount": "1.00"}, headers=headers) as response:
                assert response.status == 404
                assert response.content_type == "application/problem+json"
        async with client.get(BALANCE, headers=person.headers) as response:
            assert await response.json() == {"balance": "0.00", "currency": "ZNC"}
