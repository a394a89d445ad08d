"""Buying tokens, through the front door."""

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import pytest

from tests.access.tokens import audit_rows, token_row
from tests.support.people import Person, register
from tests.support.serving import Served
from tests.wallet.ledger import insert_user
from zenzefi.access import queries, service
from zenzefi.access.issuing import issue
from zenzefi.access.token_format import hash_token, is_well_formed
from zenzefi.audit.models import Actor, ActorKind
from zenzefi.context import Context
from zenzefi.wallet import service as wallet
from zenzefi.wallet.errors import InsufficientFunds

PURCHASE = "/api/v1/tokens/purchase"
PRICES = {1: "1.00", 12: "10.00", 24: "18.00", 168: "100.00", 720: "300.00"}


async def test_a_purchase_shows_the_token_once_and_its_clock_stands_still(ctx: Context, person: Person) -> None:
    await person.top_up("20.00")
    status, bought = await person.request("POST", PURCHASE, json={"duration_hours": 24})
    assert status == 201
    token = bought.pop("token")
    assert is_well_formed(token)
    assert UUID(bought["id"]).version == 7
    created_at = datetime.fromisoformat(bought["created_at"])
    assert abs(created_at - ctx.now()) < timedelta(minutes=1)
    assert bought["created_at"].endswith("Z")
    assert bought == {
        "id": bought["id"],
        "token_hint": token[:8],
        "duration_hours": 24,
        "scope": "full",
        "cost_znc": "18.00",
        "created_at": bought["created_at"],
        "activated_at": None,
        "expires_at": None,
        "is_active": True,
    }
    assert await person.get(f"/api/v1/tokens/{bought['id']}") == bought
    assert (await token_row(ctx, bought["id"]))["token_hash"] == hash_token(token)


@pytest.mark.parametrize(("hours", "price"), PRICES.items())
async def test_each_duration_costs_its_price(person: Person, hours: int, price: str) -> None:
    await person.top_up("300.00")
    bought = await person.buy_token(hours)
    assert (bought["duration_hours"], bought["cost_znc"]) == (hours, price)
    (entry,) = (await person.get("/api/v1/currency/transactions?transaction_type=purchase"))["items"]
    assert entry["amount"] == f"-{price}"
    assert entry["description"] == f"Access token for {hours} h, scope full"
    assert await person.balance() == entry["balance_after"]


async def test_a_scope_can_be_chosen(person: Person) -> None:
    await person.top_up("1.00")
    assert (await person.buy_token(1, scope="certificates_only"))["scope"] == "certificates_only"


async def test_a_purchase_is_audited_without_the_string(ctx: Context, person: Person) -> None:
    await person.top_up("18.00")
    bought = await person.buy_token(24)
    (row,) = await audit_rows(ctx, bought["id"], "token.purchase")
    assert (row["actor_kind"], str(row["actor_user_id"])) == ("user", person.user_id)
    assert row["before"] is None
    assert row["after"] == {
        "token_hint": bought["token_hint"],
        "duration_hours": 24,
        "scope": "full",
        "price": "18.00",
    }


@pytest.mark.parametrize("funds", [None, "17.99"])
async def test_a_purchase_is_refused_when_balance_is_short(ctx: Context, person: Person, funds: str | None) -> None:
    if funds is not None:
        await person.top_up(funds)
    status, problem = await person.request("POST", PURCHASE, json={"duration_hours": 24})
    assert (status, problem["code"]) == (402, "insufficient_funds")
    assert "18.00" in problem["detail"]
    assert (funds or "0.00") in problem["detail"]
    assert await person.balance() == (funds or "0.00")
    assert (await person.get("/api/v1/tokens/my-tokens?active_only=false"))["items"] == []
    async with ctx.connection() as conn:
        query = "SELECT count(*) FROM audit_log WHERE actor_user_id = $1 AND action = 'token.purchase'"
        assert await conn.fetchval(query, UUID(person.user_id)) == 0


async def test_no_token_stands_without_the_transaction_that_pays_for_it(ctx: Context) -> None:
    user_id = await insert_user(ctx)
    token = issue(ctx, user_id=user_id, duration_hours=1, scope="full", price=Decimal("1.00"), now=ctx.now()).token
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with ctx.transaction() as conn:
            await queries.insert_tokens(conn, tokens=[token], purchase_transaction_id=ctx.new_id())
    async with ctx.connection() as conn:
        assert await queries.find_token(conn, token_id=token.token_id, token_hash=None) is None


@pytest.mark.parametrize("hours", [2, 23, 25, 8760, 2**31 - 1])
async def test_an_unknown_duration_is_refused(person: Person, hours: int) -> None:
    status, problem = await person.request("POST", PURCHASE, json={"duration_hours": hours})
    assert (status, problem["code"]) == (422, "unknown_duration")
    assert problem["detail"] == "Tokens are sold for 1, 12, 24, 168, 720 hours."


@pytest.mark.parametrize("scope", ["", "Full", "full ", "certificates", "x" * 63, "ß"])
async def test_an_unknown_scope_is_refused(person: Person, scope: str) -> None:
    status, problem = await person.request("POST", PURCHASE, json={"duration_hours": 1, "scope": scope})
    assert (status, problem["code"]) == (422, "unknown_scope")
    assert problem["detail"] == "The scopes are full, certificates_only."


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"duration_hours": null}',
        '{"duration_hours": true}',
        '{"duration_hours": 24.0}',
        '{"duration_hours": 0}',
        '{"duration_hours": -1}',
        '{"duration_hours": 1e400}',
        '{"duration_hours": 9223372036854775808}',
        '{"duration_hours": [24]}',
        '{"duration_hours": 1, "scope": null}',
        '{"duration_hours": 1, "scope": 1}',
        '{"duration_hours": 1, "scope": "\\u0000"}',
        '{"duration_hours": 1, "scope": "\\ud800"}',
        json.dumps({"duration_hours": 1, "scope": "x" * 64}),
        '{"duration_hours": 1, "price": "0.01"}',
        '{"duration_hours": 1, "cost_znc": "0.01", "user_id": "00000000-0000-0000-0000-000000000000"}',
    ],
)
async def test_a_body_that_is_not_a_purchase_is_refused_by_field(person: Person, body: str) -> None:
    await person.top_up("300.00")
    headers = {"Content-Type": "application/json"}
    status, problem = await person.request("POST", PURCHASE, data=body, headers=headers)
    assert (status, problem["code"]) == (422, "invalid")
    assert set(problem["errors"]) <= {"duration_hours", "scope", "price", "cost_znc", "user_id"}
    assert await person.balance() == "300.00"


async def test_only_a_signed_in_person_buys(client: aiohttp.ClientSession) -> None:
    async with client.post(PURCHASE, json={"duration_hours": 1}) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert response.content_type == "application/problem+json"


async def test_a_repeated_purchase_gets_the_same_token_and_pays_once(person: Person) -> None:
    await person.top_up("50.00")
    key = {"Idempotency-Key": "purchase-of-today"}
    first = await person.request("POST", PURCHASE, json={"duration_hours": 24}, headers=key)
    again = await person.request("POST", PURCHASE, json={"duration_hours": 24}, headers=key)
    assert first[0] == again[0] == 201
    assert is_well_formed(first[1]["token"])
    assert again == first
    assert await person.balance() == "32.00"
    status, problem = await person.request("POST", PURCHASE, json={"duration_hours": 1}, headers=key)
    assert (status, problem["code"]) == (422, "idempotency_key_reused")


async def test_parallel_repeats_of_a_purchase_make_one_token(person: Person) -> None:
    await person.top_up("100.00")
    key = {"Idempotency-Key": "parallel"}
    answers = await asyncio.gather(
        *(person.request("POST", PURCHASE, json={"duration_hours": 1}, headers=key) for _ in range(30))
    )
    bought = [answer for status, answer in answers if status == 201]
    refused = {(status, answer["code"]) for status, answer in answers if status != 201}
    assert bought
    assert len({answer["token"] for answer in bought}) == 1
    assert refused <= {(409, "idempotency_in_progress")}
    assert await person.balance() == "99.00"


async def test_nothing_is_debited_when_the_rest_of_the_purchase_fails(ctx: Context, person: Person) -> None:
    await person.top_up("1.00")
    nobody = Actor(kind=ActorKind.USER)  # the audit log refuses a user without an id, as the last step
    with pytest.raises(asyncpg.CheckViolationError):
        async with ctx.transaction() as conn:
            await service.purchase(
                conn, ctx=ctx, actor=nobody, user_id=UUID(person.user_id), duration_hours=1, scope="full"
            )
    assert await person.balance() == "1.00"
    assert (await person.get("/api/v1/tokens/my-tokens?active_only=false"))["items"] == []


async def test_somebody_without_a_wallet_cannot_afford_a_token(ctx: Context) -> None:
    user_id = await insert_user(ctx)
    with pytest.raises(InsufficientFunds):
        async with ctx.transaction() as conn:
            await service.purchase(conn, ctx=ctx, actor=Actor.system(), user_id=user_id, duration_hours=1, scope="full")


async def test_of_100_parallel_purchases_with_funds_for_one_one_succeeds(
    ctx: Context, serving: Callable[..., AbstractAsyncContextManager[Served]]
) -> None:
    connections = aiohttp.TCPConnector(limit=0, force_close=True)  # each request may meet any of the processes
    async with serving(processes=3) as served, aiohttp.ClientSession(served.url, connector=connections) as client:
        person = await register(client)
        await person.top_up("18.00")
        answers = await asyncio.gather(
            *(person.request("POST", PURCHASE, json={"duration_hours": 24}) for _ in range(100))
        )
        outcomes = [(status, answer.get("code")) for status, answer in answers]
        assert outcomes.count((201, None)) == 1
        assert outcomes.count((402, "insufficient_funds")) == 99
        assert await person.balance() == "0.00"
        assert len((await person.get("/api/v1/tokens/my-tokens"))["items"]) == 1
    report = await wallet.verify(ctx)
    assert report.is_sound, report.faults


async def all_text(ctx: Context) -> str:
    """Every row of every table, as PostgreSQL writes it."""
    async with ctx.connection() as conn:
        tables = await conn.fetch(
            """
            SELECT quote_ident(table_name) AS name FROM information_schema.tables
            WHERE table_schema = 'public' AND table_type = 'BASE TABLE'
            """
        )
        rows: list[Any] = []
        for table in tables:
            rows += await conn.fetch(f"SELECT row_text::text FROM {table['name']} AS row_text")
    return "\n".join(row[0] for row in rows)


async def test_token_strings_are_neither_in_the_database_nor_in_the_logs(
    ctx: Context, serving: Callable[..., AbstractAsyncContextManager[Served]]
) -> None:
    async with serving(processes=2, LOG_LEVEL="debug") as served, aiohttp.ClientSession(served.url) as client:
        person = await register(client)
        await person.top_up("100.00")
        bought = await person.buy_token(1)
        repeated = {"Idempotency-Key": "seal-me"}
        _, sealed = await person.request("POST", PURCHASE, json={"duration_hours": 1}, headers=repeated)
        _, rotated = await person.request("POST", f"/api/v1/tokens/{bought['id']}/rotate")
        await service.activate(ctx, token_id=UUID(rotated["id"]))
        await person.request("DELETE", f"/api/v1/tokens/{sealed['id']}")
        tokens = [bought["token"], sealed["token"], rotated["token"]]
        assert all(is_well_formed(token) for token in tokens)
        log = await served.stop()
    database = await all_text(ctx)
    # What must be there, or the search below would prove nothing.
    for present in (person.username, bought["token_hint"], sealed["token_hint"]):
        assert present in database
    assert hash_token(tokens[1]).hex() in database
    assert "/api/v1/tokens/purchase" in log
    for token in tokens:
        for secret in (token, token[8:], token[8:].encode().hex()):
            assert secret not in database
            assert secret not in log
    assert not re.search(r"znz_[A-Za-z0-9_-]{20}", database + log)
