"""A journey through the product as it is run: each thing that happened is counted once, and what did not is not."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import uuid4

import aiohttp

from tests.admin.superusers import make_superuser
from tests.server.test_metrics import scrape
from tests.support.exposition import Series, total
from tests.support.people import Person, gateway_headers, register
from tests.support.serving import Served
from tests.wallet.payments import buy, deliver, post_event, report_of
from zenzefi.context import Context
from zenzefi.wallet.payment_models import PaymentStatus

Serving = Callable[..., AbstractAsyncContextManager[Served]]


async def test_what_a_journey_did_is_what_the_metrics_say(ctx: Context, serving: Serving) -> None:
    connector = aiohttp.TCPConnector(force_close=True)  # each request may meet another process
    async with serving(processes=2) as served, aiohttp.ClientSession(served.url, connector=connector) as client:
        before = await scrape(served)
        assert total(before, "zenzefi_payment_alarms_total", alarm="refused") == 0
        assert ("zenzefi_payment_alarms_total", frozenset({("alarm", "refused")})) in before, "shown before it counts"
        person = await register(client)
        async with client.post("/api/v1/auth/login", json={"email": person.email, "password": "x" * 20}) as refused:
            assert refused.status == 401
        await _buy_use_and_give_back(client, person)
        await _pay(client, ctx, person)
        await _moderate(client, ctx, person)
        samples = await _until_metered(served)
    counts = {
        "registrations_total": 2,  # the superuser, too
        "logins_total{accepted}": 2,
        "logins_total{refused}": 1,
        "deposits_total": 2,
        "deposits_znc_total": 210,
        "purchases_total": 3,
        "purchases_znc_total": 100,
        "tokens_sold_total{1}": 1,
        "tokens_sold_total{24}": 6,
        "tokens_sold_total{720}": 0,
        "tokens_activated_total": 1,
        "tokens_ended_total{refunded}": 1,
        "tokens_ended_total{revoked}": 1,
        "refunds_total": 1,
        "refunds_znc_total": 18,
        "adjustments_znc_total{in}": 2.5,
        "adjustments_znc_total{out}": 1.25,
        "sessions_opened_total": 1,
        "token_checks_total{usable}": 3,
        "token_checks_total{malformed}": 1,
        "payments_total{mock,created}": 2,
        "payments_total{mock,opened}": 2,
        "payments_total{mock,succeeded}": 1,
        "payments_total{mock,refused}": 1,
        "payment_notices_total{mock,taken}": 2,
        "payment_notices_total{mock,payment_mismatch}": 1,
        "payment_notices_total{mock,bad_signature}": 1,
        "payment_notices_total{other,unknown_payment_provider}": 1,
        "payment_alarms_total{refused}": 1,
        "payment_alarms_total{not_credited}": 0,
    }
    found = {name: _sum(samples, name) for name in counts}
    assert found == counts


async def _buy_use_and_give_back(client: aiohttp.ClientSession, person: Person) -> None:
    await person.top_up("200.00")
    used, unused = await person.buy_token(1), await person.buy_token(24)
    key = {"Idempotency-Key": uuid4().hex}
    starter = "/api/v1/bundles/00000000-0000-7000-8000-000000000101/purchase"
    for _ in range(2):  # the second time it is only answered again
        status, bundle = await person.request("POST", starter, headers=key)
        assert (status, bundle["cost_znc"]) == (201, "81.00")
    status, _ = await person.request("POST", "/api/v1/tokens/purchase", json={"duration_hours": 720})
    assert status == 402
    for _ in range(3):
        async with client.get("/api/v1/proxy/hello", headers=gateway_headers(used["token"])) as response:
            assert response.status == 200
    async with client.get("/api/v1/proxy/hello", headers=gateway_headers("znz_no-token")) as response:
        assert response.status == 401
    for expected in (200, 409):
        status, _ = await person.request("DELETE", f"/api/v1/tokens/{unused['id']}")
        assert status == expected


async def _pay(client: aiohttp.ClientSession, ctx: Context, person: Person) -> None:
    begun: list[Any] = [(await buy(person))[1] for _ in range(2)]
    paid, cheated = (payment["payment_id"] for payment in begun)
    for _ in range(2):
        assert (await deliver(client, ctx, report_of(paid)))[0] == 200
    cheap = report_of(cheated, PaymentStatus.SUCCEEDED, "1.00")
    assert (await deliver(client, ctx, cheap))[0] == 409
    assert (await post_event(client, b"{}", "t=1,v1=00"))[0] == 400
    assert (await post_event(client, b"{}", None, path=f"/api/v1/webhooks/payments/{uuid4().hex}"))[0] == 404


async def _moderate(client: aiohttp.ClientSession, ctx: Context, person: Person) -> None:
    superuser = await make_superuser(ctx, client)
    for amount in ("2.50", "-1.25"):
        status, _ = await superuser.request(
            "POST", f"/api/v1/admin/users/{person.user_id}/adjustments", json={"amount": amount, "reason": "a test"}
        )
        assert status == 201
    tokens = (await person.get("/api/v1/tokens/my-tokens?active_only=true"))["items"]
    unused = next(token for token in tokens if token["activated_at"] is None)
    status, _ = await superuser.request("DELETE", f"/api/v1/admin/tokens/{unused['id']}")
    assert status == 200


async def _until_metered(served: Served) -> dict[Series, float]:
    async with asyncio.timeout(30):
        while True:
            samples = await scrape(served)
            if total(samples, "zenzefi_sessions_opened_total") >= 1:
                return samples
            await asyncio.sleep(0.1)


def _sum(samples: dict[Series, float], name: str) -> float:
    """A metric's samples that have all these values among their labels', such as ``payments_total{mock,opened}``."""
    metric, _, values = name.rstrip("}").partition("{")
    wanted = set(values.split(",")) if values else set()
    return sum(
        value
        for (found, labels), value in samples.items()
        if found == f"zenzefi_{metric}" and wanted <= set(dict(labels).values())
    )
