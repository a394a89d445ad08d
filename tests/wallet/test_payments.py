"""Payments through the front door, from the request to the credit."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import pytest

from tests.support.inprocess import run_app
from tests.support.people import Person, register
from tests.wallet.ledger import credit, debit
from tests.wallet.payments import PURCHASE, RETURN_URL, begin, buy, deliver, look, report_of
from zenzefi.context import Context
from zenzefi.settings import Environment, PaymentProviderName
from zenzefi.wallet import service
from zenzefi.wallet.models import MAX_BALANCE
from zenzefi.wallet.payment_models import Payment, PaymentStatus
from zenzefi.wallet.payments import is_allowed_return_url
from zenzefi.wallet.providers.mock import MockProvider


async def test_payment_begins_pending_and_ends_credited(
    person: Person, ctx: Context, client: aiohttp.ClientSession
) -> None:
    status, begun = await buy(person, "12.34")
    assert status == 201
    assert begun == {
        "payment_id": begun["payment_id"],
        "amount_znc": "12.34",
        "amount": "123.40",
        "currency": "RUB",
        "status": "pending",
        "payment_url": f"http://127.0.0.1:8000/mock-payments/mock_{UUID(begun['payment_id']).hex}",
    }
    shown = await look(person, begun["payment_id"])
    assert (shown["status"], [line["event"] for line in shown["timeline"]]) == ("pending", ["created", "opened"])
    assert await person.balance() == "0.00"

    assert await deliver(client, ctx, report_of(begun["payment_id"], amount="123.40")) == (200, {"received": True})
    shown = await look(person, begun["payment_id"])
    assert (shown["status"], shown["timeline"][-1]["event"]) == ("succeeded", "succeeded")
    page = await person.get("/api/v1/currency/transactions")
    assert [(item["amount"], item["payment_id"]) for item in page["items"]] == [("12.34", begun["payment_id"])]
    async with ctx.connection() as conn:
        query = "SELECT action, actor_kind, ip, after FROM audit_log WHERE resource_id = $1 ORDER BY id"
        rows = await conn.fetch(query, begun["payment_id"])
    assert [(row["action"], row["actor_kind"]) for row in rows] == [
        ("payment.create", "user"),
        ("payment.succeed", "system"),
    ]
    assert str(rows[1]["ip"]) == "127.0.0.1"
    assert rows[1]["after"]["ledger_transaction_id"] == page["items"][0]["id"]


@pytest.mark.parametrize("status", [PaymentStatus.CANCELED, PaymentStatus.EXPIRED])
async def test_payment_that_ends_without_money_credits_nothing_unless_it_is_paid_after_all(
    person: Person, ctx: Context, client: aiohttp.ClientSession, status: PaymentStatus
) -> None:
    _, begun = await buy(person)
    for _ in range(2):
        assert (await deliver(client, ctx, report_of(begun["payment_id"], status)))[0] == 200
    assert (await look(person, begun["payment_id"]))["status"] == status
    assert await person.balance() == "0.00"
    for late in (PaymentStatus.SUCCEEDED, status, PaymentStatus.PENDING, PaymentStatus.SUCCEEDED):
        assert (await deliver(client, ctx, report_of(begun["payment_id"], late)))[0] == 200
    shown = await look(person, begun["payment_id"])
    assert [line["event"] for line in shown["timeline"]] == ["created", "opened", status, "succeeded"]
    assert await person.balance() == "10.00"


async def test_event_before_its_payment_is_refused_and_credited_when_it_comes_again(
    person: Person, ctx: Context, client: aiohttp.ClientSession
) -> None:
    assert (await deliver(client, ctx, report_of(uuid4())))[0] == 404
    payment = await begin(ctx, UUID(person.user_id))  # the provider's event overtakes its answer to us
    for _ in range(3):
        assert (await deliver(client, ctx, report_of(payment.id)))[0] == 200
    assert await person.balance() == "10.00"
    shown = await look(person, str(payment.id))
    assert [line["event"] for line in shown["timeline"]] == ["created", "succeeded"]


@pytest.mark.parametrize(
    ("changes", "mismatch"),
    [
        ({"amount": "100.01"}, "amount"),
        ({"amount": "10.00"}, "amount"),
        ({"currency": "USD"}, "currency"),
        ({"provider_payment_id": "mock_another"}, "provider's payment"),
        ({"amount": "0.00", "status": PaymentStatus.CANCELED}, "amount"),
    ],
)
async def test_event_that_contradicts_its_payment_is_refused_and_alarmed(
    person: Person,
    ctx: Context,
    client: aiohttp.ClientSession,
    changes: dict[str, Any],
    mismatch: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, begun = await buy(person)
    status, problem = await deliver(client, ctx, report_of(begun["payment_id"], **changes))
    assert (status, problem["code"]) == (409, "payment_mismatch")
    alarms = [json.loads(record.message) for record in caplog.records if record.levelname == "ERROR"]
    assert [(alarm["event"], alarm["mismatch"]) for alarm in alarms] == [("payment_refused", mismatch)]
    async with ctx.connection() as conn:
        query = "SELECT after FROM audit_log WHERE resource_id = $1 AND action = 'payment.refuse'"
        assert (await conn.fetchval(query, begun["payment_id"]))["mismatch"] == mismatch
    assert (await look(person, begun["payment_id"]))["status"] == "pending"
    assert await person.balance() == "0.00"
    assert (await deliver(client, ctx, report_of(begun["payment_id"])))[0] == 200
    assert await person.balance() == "10.00"


async def test_one_payment_of_the_provider_pays_for_one_of_ours(
    person: Person, ctx: Context, client: aiohttp.ClientSession
) -> None:
    first, second = [await begin(ctx, UUID(person.user_id)) for _ in range(2)]
    same = report_of(first.id).provider_payment_id
    assert (await deliver(client, ctx, report_of(first.id)))[0] == 200
    status, problem = await deliver(client, ctx, report_of(second.id, provider_payment_id=same))
    assert (status, problem["code"]) == (409, "payment_mismatch")
    assert await person.balance() == "10.00"
    # Without our id the provider's own tells which payment is meant.
    assert (await deliver(client, ctx, report_of(first.id, payment_id=None)))[0] == 200
    status, _ = await deliver(client, ctx, report_of(first.id, payment_id=None, provider_payment_id="mock_x"))
    assert status == 404


async def test_full_wallet_leaves_the_payment_to_be_delivered_again(
    person: Person, ctx: Context, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    user_id = UUID(person.user_id)
    payment = await begin(ctx, user_id)
    await credit(ctx, user_id, MAX_BALANCE)
    status, problem = await deliver(client, ctx, report_of(payment.id))
    assert (status, problem["code"]) == (409, "wallet_full")
    assert "payment_not_credited" in caplog.text
    await debit(ctx, user_id, MAX_BALANCE)
    assert (await deliver(client, ctx, report_of(payment.id)))[0] == 200
    assert await person.balance() == "10.00"


async def test_repeated_purchase_is_the_same_payment(person: Person) -> None:
    key = uuid4().hex
    status, first = await buy(person, **{"Idempotency-Key": key})
    again = [await buy(person, **{"Idempotency-Key": key}) for _ in range(2)]
    assert status == 201
    assert again == [(201, first)] * 2
    assert [line["event"] for line in (await look(person, first["payment_id"]))["timeline"]] == ["created", "opened"]
    status, problem = await buy(person, "11.00", **{"Idempotency-Key": key})
    assert (status, problem["code"]) == (422, "idempotency_key_reused")
    assert (await buy(person))[1]["payment_id"] != first["payment_id"]


async def test_parallel_repetitions_are_one_payment(person: Person, ctx: Context) -> None:
    key = uuid4().hex
    answers = await asyncio.gather(*(buy(person, **{"Idempotency-Key": key}) for _ in range(10)))
    made = {answer["payment_id"] for status, answer in answers if status == 201}
    assert len(made) == 1
    assert {answer["code"] for status, answer in answers if status != 201} <= {"idempotency_in_progress"}
    async with ctx.connection() as conn:
        query = "SELECT count(*) FROM payments WHERE user_id = $1"
        assert await conn.fetchval(query, UUID(person.user_id)) == 1


async def test_repetition_takes_over_from_a_request_that_died(
    person: Person, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(_provider: MockProvider, _payment: Payment) -> None:
        raise asyncio.CancelledError  # what a killed process does: nothing more

    key, user_id = uuid4().hex, UUID(person.user_id)
    with monkeypatch.context() as patch, suppress(aiohttp.ClientError):
        patch.setattr(MockProvider, "open", die)
        await buy(person, **{"Idempotency-Key": key})
    status, problem = await buy(person, **{"Idempotency-Key": key})
    assert (status, problem["code"], problem["retry_after"]) == (409, "idempotency_in_progress", 2)
    async with ctx.connection() as conn:
        query = "UPDATE payments SET opening_until = $2 WHERE user_id = $1 AND opening_until > $2"
        assert await conn.execute(query, user_id, ctx.now()) == "UPDATE 1"
    assert (await buy(person, **{"Idempotency-Key": key}))[0] == 201
    async with ctx.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM payments WHERE user_id = $1", user_id) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"amount_znc": "0.99", "return_url": RETURN_URL}, "amount_znc"),
        ({"amount_znc": "100000.01", "return_url": RETURN_URL}, "amount_znc"),
        ({"amount_znc": True, "return_url": RETURN_URL}, "amount_znc"),
        ({"amount_znc": "5.00", "return_url": "https://evil.example/"}, "return_url"),
        ({"amount_znc": "5.00"}, "return_url"),
        ({"amount_znc": "5.00", "return_url": RETURN_URL, "amount": "1.00"}, "amount"),
    ],
)
async def test_bad_purchases_are_422(person: Person, body: dict[str, Any], field: str) -> None:
    status, problem = await person.request("POST", PURCHASE, json=body)
    assert (status, list(problem["errors"])) == (422, [field])


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://app.example/back?x=1#y", True),
        ("https://APP.example", True),
        ("https://app.example:443/", True),
        ("https://app.example:8443/", True),
        ("https://app.example:8444/", False),
        ("http://app.example/", False),
        ("https://127.0.0.1/", False),
        ("https://app.example.evil/", False),
        ("https://evil/app.example", False),
        ("https://app.example@evil/", False),
        ("https://evil@app.example/", False),
        ("https://evil\\@app.example/", False),
        ("https://app.example\\.evil/", False),
        ("https://app.example /", False),
        ("https://app.example\n.evil/", False),
        ("https://app.example:x/", False),
        ("https://[::1/", False),
        ("https:///app.example", False),
        ("//app.example/", False),
        ("javascript:alert(1)//app.example", False),
        ("https://app.example/" + "a" * 2048, False),
    ],
)
def test_return_url_is_https_on_a_listed_host(ctx: Context, url: str, allowed: bool) -> None:
    settings = dataclasses.replace(ctx.settings, payment_return_hosts=("app.example", "app.example:8443"))
    assert is_allowed_return_url(url, settings) is allowed


async def test_payments_are_private(client: aiohttp.ClientSession, person: Person) -> None:
    _, begun = await buy(person)
    stranger = await register(client)
    for payment_id in (begun["payment_id"], str(uuid4()), "1", "%00", "..", "a" * 500):
        status, _ = await stranger.request("GET", f"/api/v1/currency/payments/{payment_id}")
        assert status == 404


@pytest.fixture
async def elsewhere(ctx: Context, request: pytest.FixtureRequest) -> AsyncIterator[aiohttp.ClientSession]:
    """The application as it is with other settings."""
    settings = dataclasses.replace(ctx.settings, **request.param)
    async with run_app(dataclasses.replace(ctx, settings=settings)) as url, aiohttp.ClientSession(url) as session:
        yield session


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"payment_provider": PaymentProviderName.NONE},
        {"environment": Environment.PRODUCTION},
        {"environment": Environment.PRODUCTION, "payment_provider": PaymentProviderName.NONE},
    ],
    indirect=True,
    ids=["none", "mock-in-production", "production"],
)
async def test_without_a_provider_there_are_no_payments(
    ctx: Context, person: Person, elsewhere: aiohttp.ClientSession
) -> None:
    _, begun = await buy(person)
    there = dataclasses.replace(person, client=elsewhere)
    status, problem = await buy(there)
    assert (status, problem["code"]) == (404, "payments_not_offered")
    for provider in PaymentProviderName:
        async with elsewhere.post(f"/api/v1/webhooks/payments/{provider}", data=b"{}") as response:
            assert (response.status, (await response.json(content_type=None))["code"]) == (
                404,
                "unknown_payment_provider",
            )
    assert (await deliver(elsewhere, ctx, report_of(begun["payment_id"])))[0] == 404
    page = f"/mock-payments/mock_{UUID(begun['payment_id']).hex}"
    for method, path in (("GET", page), ("POST", f"{page}/pay"), ("POST", f"{page}/cancel")):
        async with elsewhere.request(method, path) as response:
            assert response.status == 404
    assert (await look(there, begun["payment_id"]))["status"] == "pending"
    assert await person.balance() == "0.00"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE payments SET amount_znc = 1",
        "UPDATE payments SET user_id = user_id",
        "DELETE FROM payments",
        "UPDATE payment_events SET at = at",
        "DELETE FROM payment_events",
        "TRUNCATE payments, payment_events",
    ],
)
async def test_application_cannot_change_what_a_payment_is(ctx: Context, statement: str) -> None:
    async with ctx.connection() as conn:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(statement)


async def test_database_refuses_a_second_credit_and_a_success_without_one(
    person: Person, ctx: Context, client: aiohttp.ClientSession
) -> None:
    credited, pending = [await begin(ctx, UUID(person.user_id)) for _ in range(2)]
    assert (await deliver(client, ctx, report_of(credited.id)))[0] == 200
    for statement, payment_id, constraint in (
        ("UPDATE payments SET ledger_transaction_id = $1 WHERE id = $1", credited.id, "payments_credited_once"),
        (
            "UPDATE payments SET status = 'pending', ledger_transaction_id = NULL WHERE id = $1",
            credited.id,
            "payments_credited_once",
        ),
        ("UPDATE payments SET status = 'succeeded' WHERE id = $1", pending.id, "payments_credited_when_succeeded"),
    ):
        async with ctx.connection() as conn:
            with pytest.raises(asyncpg.CheckViolationError) as violation:
                await conn.execute(statement, payment_id)
        assert violation.value.constraint_name == constraint
    assert (await service.verify(ctx)).is_sound
