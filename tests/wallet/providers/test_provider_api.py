"""Both providers, by their published APIs: opening, events, asking, cancelling, errors and silence."""

import asyncio
import dataclasses
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from tests.wallet.payments import buy, look
from tests.wallet.providers.conftest import Shop, only_stripe, only_yookassa
from tests.wallet.providers.servers import SECRETS, SHOP_SECRET, STRIPE_SECRET
from zenzefi.settings import PaymentProviderName
from zenzefi.wallet import settlement


async def test_paid_payment_is_credited_once_however_often_it_is_told(shop: Shop) -> None:
    payment_id, theirs = await shop.buy()
    assert (await look(shop.person, payment_id))["status"] == "pending"
    shop.provider.pay(theirs)
    for _ in range(3):
        assert await shop.deliver(shop.provider.event(theirs)) == (200, {"received": True})
    assert await shop.person.balance() == "10.00"
    assert (await look(shop.person, payment_id))["status"] == "succeeded"


async def test_unpaid_payment_expires_by_its_event(shop: Shop) -> None:
    payment_id, theirs = await shop.buy()
    shop.provider.end(theirs)
    assert (await shop.deliver(shop.provider.event(theirs)))[0] == 200
    assert (await look(shop.person, payment_id))["status"] == "expired"
    assert await shop.person.balance() == "0.00"


@only_yookassa
async def test_yookassa_is_asked_as_it_documents(shop: Shop) -> None:
    payment_id, theirs = await shop.buy()
    (method, path, headers, sent) = shop.provider.requests[0]
    assert (method, path, headers["Idempotence-Key"]) == ("POST", "/v3/payments", payment_id)
    assert sent == {
        "amount": {"value": "100.00", "currency": "RUB"},
        "capture": True,
        "confirmation": {"type": "redirect", "return_url": "https://127.0.0.1/thanks?order=1"},
        "description": "10.00 ZNC",
        "metadata": {"payment_id": payment_id},
    }
    assert (await look(shop.person, payment_id))["payment_url"] == f"https://yoomoney.example/{theirs}"


@only_stripe
async def test_stripe_is_asked_as_it_documents(shop: Shop) -> None:
    payment_id, theirs = await shop.buy()
    (method, path, headers, sent) = shop.provider.requests[0]
    assert (method, path, headers["Idempotency-Key"]) == ("POST", "/v1/checkout/sessions", payment_id)
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    row = await shop.row(payment_id)
    assert sent == {
        "mode": "payment",
        "client_reference_id": payment_id,
        "metadata[payment_id]": payment_id,
        "payment_intent_data[metadata][payment_id]": payment_id,
        "line_items[0][quantity]": "1",
        "line_items[0][price_data][currency]": "rub",
        "line_items[0][price_data][unit_amount]": "10000",
        "line_items[0][price_data][product_data][name]": "10.00 ZNC",
        "success_url": "https://127.0.0.1/thanks?order=1",
        "cancel_url": "https://127.0.0.1/thanks?order=1",
        "expires_at": str(int((row["created_at"] + timedelta(hours=1)).timestamp())),
    }
    assert (await look(shop.person, payment_id))["payment_url"] == f"https://checkout.stripe.example/c/pay/{theirs}"


@pytest.mark.parametrize("faults", [["drop-answer"], ["503", "429"], ["drop"]], ids=" ".join)
async def test_what_passes_by_itself_is_tried_again_without_a_second_payment(shop: Shop, faults: list[str]) -> None:
    shop.provider.faults.extend(faults)
    await shop.buy()
    assert len(shop.provider.payments) == 1
    assert len(shop.provider.requests) == len(faults) + 1


@pytest.mark.parametrize("faults", [["hang"] * 3, ["drop-answer"] * 3], ids=lambda faults: faults[0])
async def test_provider_that_is_away_is_503_and_the_retry_goes_on_with_the_same_payment(
    shop: Shop, faults: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    patient = shop.ctx.settings
    shop.ctx.settings = dataclasses.replace(patient, payment_provider_timeout_s=1.0)
    shop.provider.faults.extend(faults)
    key = uuid4().hex
    async with asyncio.timeout(60):  # the provider hangs for longer
        status, problem = await buy(shop.person, **{"Idempotency-Key": key})
    assert (status, problem["code"], problem["retry_after"]) == (503, "payment_provider_unavailable", 5)
    assert "Nothing was charged" in problem["detail"]
    assert not [secret for secret in SECRETS if secret in caplog.text]
    shop.provider.faults.clear()
    shop.ctx.settings = patient
    await shop.buy(**{"Idempotency-Key": key})
    assert len(shop.provider.payments) == 1
    async with shop.ctx.connection() as conn:
        query = "SELECT count(*) FROM payments WHERE user_id = $1"
        assert await conn.fetchval(query, UUID(shop.person.user_id)) == 1


@pytest.mark.parametrize("fault", ["junk", "huge", "empty", "redirect"])
async def test_answer_that_cannot_be_used_is_502(shop: Shop, fault: str) -> None:
    shop.provider.faults.append(fault)
    key = uuid4().hex
    status, problem = await buy(shop.person, **{"Idempotency-Key": key})
    assert (status, problem["code"]) == (502, "payment_provider_error")
    assert len(shop.provider.requests) == 1
    await shop.buy(**{"Idempotency-Key": key})


async def test_wrong_credentials_are_502_and_no_secret_is_told(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    wrong = "wrong-" + (SHOP_SECRET if shop.provider.name is PaymentProviderName.YOOKASSA else STRIPE_SECRET)
    settings = dataclasses.replace(shop.ctx.settings, yookassa_secret_key=wrong, stripe_secret_key=wrong)
    shop.ctx.settings = settings
    key = uuid4().hex
    for _ in range(2):
        status, problem = await buy(shop.person, **{"Idempotency-Key": key})
        assert status in (502, 409)
        assert problem["code"] in ("payment_refused_by_provider", "payment_ended")
    assert "payment_provider_refused" in caplog.text
    for secret in (*SECRETS, wrong):
        assert secret not in caplog.text + repr(settings) + str(problem)
    assert shop.provider.payments == {}
    async with shop.ctx.connection() as conn:
        query = "SELECT id, status FROM payments WHERE user_id = $1"
        row = await conn.fetchrow(query, UUID(shop.person.user_id))
        assert row is not None
        assert row["status"] == "canceled"
        query = "SELECT action FROM audit_log WHERE resource_id = $1 AND actor_user_id = $2 ORDER BY id"
        actions = await conn.fetch(query, str(row["id"]), UUID(shop.person.user_id))
    assert [action for (action,) in actions] == ["payment.create", "payment.cancel"]


async def test_lost_event_is_made_up_for_by_asking(shop: Shop) -> None:
    (paid, paid_theirs), (unpaid, unpaid_theirs), (fresh, fresh_theirs) = [await shop.buy() for _ in range(3)]
    shop.provider.pay(paid_theirs)
    shop.provider.pay(fresh_theirs)
    shop.provider.end(unpaid_theirs)
    for payment_id in (paid, unpaid):
        await shop.age(payment_id, timedelta(minutes=6))
    assert await settlement.heal(shop.ctx) == 2
    assert await settlement.heal(shop.ctx) == 0
    states = [(await look(shop.person, payment_id))["status"] for payment_id in (paid, unpaid, fresh)]
    assert states == ["succeeded", "expired", "pending"]
    assert await shop.person.balance() == "10.00"
    assert (await shop.deliver(shop.provider.event(paid_theirs)))[0] == 200  # and then the event comes after all
    assert await shop.person.balance() == "10.00"


async def test_payment_that_nobody_goes_on_with_expires(shop: Shop) -> None:
    payment_id, theirs = await shop.buy()
    await shop.age(payment_id, timedelta(minutes=59))
    assert await settlement.heal(shop.ctx) == 0
    await shop.age(payment_id, timedelta(minutes=61))
    # Stripe is told to end it; YooKassa does so by itself, and is waited for.
    ends_at_once = shop.provider.name is PaymentProviderName.STRIPE
    assert await settlement.heal(shop.ctx) == ends_at_once
    assert (shop.provider.payments[theirs]["status"] == "expired") is ends_at_once
    await shop.age(payment_id, timedelta(days=7, minutes=1))
    assert await settlement.heal(shop.ctx) == (not ends_at_once)
    assert (await look(shop.person, payment_id))["status"] == "expired"
    shop.provider.pay(theirs)  # later than anybody waited for, and still it is money
    assert (await shop.deliver(shop.provider.event(theirs)))[0] == 200
    assert await shop.person.balance() == "10.00"


async def test_payment_that_the_provider_never_knew_expires(shop: Shop) -> None:
    forgotten, theirs = await shop.buy()
    del shop.provider.payments[theirs]
    shop.provider.faults.extend(["503"] * 3)
    assert (await buy(shop.person))[0] == 503
    async with shop.ctx.connection() as conn:
        query = "SELECT id FROM payments WHERE user_id = $1 AND provider_payment_id IS NULL"
        never_told = str(await conn.fetchval(query, UUID(shop.person.user_id)))
    for age, ended in ((timedelta(minutes=30), 0), (timedelta(minutes=61), 2)):
        for payment_id in (forgotten, never_told):
            await shop.age(payment_id, age)
        assert await settlement.heal(shop.ctx) == ended
    for payment_id in (forgotten, never_told):
        assert (await look(shop.person, payment_id))["timeline"][-1]["event"] == "expired"


async def test_provider_that_is_away_puts_the_check_off_and_contradictions_are_alarmed(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    payment_id, theirs = await shop.buy()
    shop.provider.pay(theirs)
    await shop.age(payment_id, timedelta(minutes=6))
    shop.provider.faults.extend(["503"] * 3)
    assert await settlement.heal(shop.ctx) == 0
    assert (await shop.row(payment_id))["next_check_at"] > shop.ctx.now()
    shop.provider.payments[theirs].update(amount={"value": "100.01", "currency": "RUB"}, amount_total=10001)
    await shop.age(payment_id, timedelta(minutes=6))
    assert await settlement.heal(shop.ctx) == 0
    assert "payment_refused" in caplog.text
    assert await shop.person.balance() == "0.00"
