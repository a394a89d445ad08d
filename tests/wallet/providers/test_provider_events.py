"""What the providers' events may and may not do."""

import dataclasses
import ipaddress
import json
from datetime import timedelta
from uuid import uuid4

import pytest

from tests.wallet.payments import look
from tests.wallet.providers.conftest import Shop, only_stripe, only_yookassa
from tests.wallet.providers.servers import WEBHOOK_SECRET


@only_yookassa
async def test_yookassa_is_believed_only_when_it_is_asked(shop: Shop) -> None:
    payment_id, theirs = await shop.buy()
    forged = json.loads(shop.provider.event(theirs))
    forged["event"], forged["object"] = "payment.succeeded", {**forged["object"], "status": "succeeded", "paid": True}
    assert (await shop.deliver(json.dumps(forged).encode()))[0] == 200
    assert (await look(shop.person, payment_id))["status"] == "pending"
    assert await shop.person.balance() == "0.00"


@only_yookassa
async def test_stranger_cannot_make_us_ask_yookassa(shop: Shop) -> None:
    await shop.buy()
    asked = len(shop.provider.requests)
    for theirs, ours in ((str(uuid4()), str(uuid4())), ("../../v3/me", ""), ("x" * 5000, ""), (str(uuid4()), "x")):
        body = {"event": "payment.succeeded", "object": {"id": theirs, "metadata": {"payment_id": ours}}}
        status, _ = await shop.deliver(json.dumps(body).encode())
        assert status in (400, 404)
    assert len(shop.provider.requests) == asked


@only_yookassa
async def test_paid_payment_of_another_person_does_not_pay_for_mine(shop: Shop) -> None:
    _, theirs_paid = await shop.buy()
    mine, _ = await shop.buy()
    shop.provider.pay(theirs_paid)
    hint = {"id": theirs_paid, "metadata": {"payment_id": mine}}
    status, _ = await shop.deliver(json.dumps({"event": "payment.succeeded", "object": hint}).encode())
    assert status == 200  # the payment that YooKassa says it is, and no other
    assert (await look(shop.person, mine))["status"] == "pending"
    assert await shop.person.balance() == "10.00"


@only_yookassa
async def test_notification_waits_for_yookassa_to_answer(shop: Shop) -> None:
    payment_id, theirs = await shop.buy()
    shop.provider.pay(theirs)
    shop.provider.faults.extend(["503"] * 3)
    assert (await shop.deliver(shop.provider.event(theirs)))[0] == 503
    assert (await shop.deliver(shop.provider.event(theirs)))[0] == 200
    assert (await look(shop.person, payment_id))["status"] == "succeeded"


@only_yookassa
async def test_notifications_from_elsewhere_are_refused(shop: Shop) -> None:
    _, theirs = await shop.buy()
    shop.provider.pay(theirs)
    for network, status in (("185.71.76.0/27", 403), ("127.0.0.0/8", 200)):
        settings = dataclasses.replace(shop.ctx.settings, yookassa_networks=(ipaddress.ip_network(network),))
        shop.ctx.settings = settings
        assert (await shop.deliver(shop.provider.event(theirs)))[0] == status
    assert await shop.person.balance() == "10.00"


@only_yookassa
async def test_captured_later_and_canceled_by_the_payer(shop: Shop) -> None:
    payment_id, theirs = await shop.buy()
    shop.provider.payments[theirs]["status"] = "waiting_for_capture"
    assert (await shop.deliver(shop.provider.event(theirs)))[0] == 200
    assert (await look(shop.person, payment_id))["status"] == "pending"
    shop.provider.end(theirs, reason="canceled_by_merchant")
    assert (await shop.deliver(shop.provider.event(theirs)))[0] == 200
    assert (await look(shop.person, payment_id))["status"] == "canceled"


@only_stripe
async def test_stripe_is_believed_by_its_signature(shop: Shop) -> None:
    _, theirs = await shop.buy()
    shop.provider.pay(theirs)
    body = shop.provider.event(theirs)
    for changes, code in (
        ({"secret": "whsec_of_somebody_else"}, "bad_signature"),
        ({"at": shop.ctx.now() - timedelta(seconds=330)}, "stale_event"),
        ({"at": shop.ctx.now() + timedelta(seconds=330)}, "stale_event"),
    ):
        status, problem = await shop.deliver(body, **changes)
        assert (status, problem["code"]) == (400, code)
    assert await shop.person.balance() == "0.00"
    asked = len(shop.provider.requests)
    assert (await shop.deliver(body, at=shop.ctx.now() - timedelta(seconds=270)))[0] == 200
    assert await shop.person.balance() == "10.00"
    assert len(shop.provider.requests) == asked


@only_stripe
async def test_both_secrets_count_while_one_replaces_the_other(shop: Shop) -> None:
    new, old = "whsec_new_0123456789abcdef", WEBHOOK_SECRET
    settings = dataclasses.replace(shop.ctx.settings, payment_webhook_secrets=(new, old))
    shop.ctx.settings = settings
    for secret in (old, new):
        _, theirs = await shop.buy()
        shop.provider.pay(theirs)
        assert (await shop.deliver(shop.provider.event(theirs), secret=secret))[0] == 200
    assert await shop.person.balance() == "20.00"
    shop.ctx.settings = dataclasses.replace(settings, payment_webhook_secrets=(new,))
    assert (await shop.deliver(shop.provider.event(theirs), secret=old))[0] == 400


@only_stripe
@pytest.mark.parametrize(
    ("event_type", "ends_as"),
    [("checkout.session.async_payment_succeeded", "succeeded"), ("checkout.session.async_payment_failed", "canceled")],
)
async def test_slow_method_is_credited_when_its_money_comes(shop: Shop, event_type: str, ends_as: str) -> None:
    payment_id, theirs = await shop.buy()
    shop.provider.payments[theirs]["status"] = "complete"  # the payer is done, the money is not here
    assert (await shop.deliver(shop.provider.event(theirs)))[0] == 200
    assert (await look(shop.person, payment_id))["status"] == "pending"
    shop.provider.payments[theirs]["payment_status"] = "paid" if ends_as == "succeeded" else "unpaid"
    assert (await shop.deliver(shop.provider.event(theirs, event_type)))[0] == 200
    assert (await look(shop.person, payment_id))["status"] == ends_as


@only_stripe
async def test_session_of_another_product_is_taken_and_does_nothing(shop: Shop) -> None:
    payment_id, theirs = await shop.buy()
    shop.provider.pay(theirs)
    shop.provider.payments[theirs]["metadata"] = {"order": "1"}
    assert (await shop.deliver(shop.provider.event(theirs)))[0] == 200
    assert (await look(shop.person, payment_id))["status"] == "pending"


async def test_other_events_are_taken_and_do_nothing(shop: Shop) -> None:
    payment_id, theirs = await shop.buy()
    shop.provider.pay(theirs)
    for event_type in ("refund.succeeded", "charge.refunded", "payout.paid"):
        assert (await shop.deliver(shop.provider.event(theirs, event_type)))[0] == 200
    assert (await look(shop.person, payment_id))["status"] == "pending"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"event": 1, "type": 1}',
        b'{"event": "payment.succeeded", "type": "checkout.session.completed"}',
        b'{"event": "payment.succeeded", "object": [], "type": "checkout.session.expired", "data": {"object": {}}}',
        b'{"type": "checkout.session.expired", "data": {"object": {"id": "a", "amount_total": 1e9}}}',
        b'{"event": "payment.x", "object": {"id": "\\u0000"}, "type": "checkout.session.expired", "data": 1}',
    ],
    ids=range(11),
)
async def test_event_that_cannot_be_read_is_400(shop: Shop, body: bytes) -> None:
    status, problem = await shop.deliver(body)
    assert (status, problem["code"]) in ((400, "bad_event"), (404, "payment_not_found"))


async def test_event_is_bounded(shop: Shop) -> None:
    assert (await shop.deliver(b" " * 65_537))[0] == 413
