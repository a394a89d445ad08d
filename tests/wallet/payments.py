"""What the payments' tests share: payments begun, reports of the mock provider, and its signed events."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import aiohttp

from tests.support.people import Person
from zenzefi.audit.models import Actor
from zenzefi.context import Context
from zenzefi.settings import Settings
from zenzefi.wallet import payments
from zenzefi.wallet.payment_models import Payment, PaymentReport, PaymentStatus
from zenzefi.wallet.providers import signature
from zenzefi.wallet.providers.mock import SIGNATURE_HEADER, WEBHOOK_PATH, webhook_secrets, write_event

PURCHASE = "/api/v1/currency/purchase"
# The host of the tests' BACKEND_URL.
RETURN_URL = "https://127.0.0.1/thanks?order=1"
TEN = Decimal("10.00")


async def begin(ctx: Context, user_id: UUID, amount_znc: Decimal = TEN) -> Payment:
    """A payment that no provider has heard of."""
    async with ctx.transaction() as conn:
        return await payments.create(
            conn, ctx=ctx, user_id=user_id, amount_znc=amount_znc, return_url=RETURN_URL, actor=Actor.system()
        )


async def put_checks_off(ctx: Context) -> None:
    """Let no check be due of what others have left pending: it would be counted, and take a provider's fault."""
    async with ctx.transaction() as conn:
        await conn.execute(
            "UPDATE payments SET next_check_at = $1 WHERE status = 'pending'", ctx.now() + timedelta(days=1)
        )


async def buy(person: Person, amount_znc: str = "10.00", **headers: str) -> tuple[int, Any]:
    """A payment through the front door."""
    body = {"amount_znc": amount_znc, "return_url": RETURN_URL}
    return await person.request("POST", PURCHASE, json=body, headers=headers)


async def look(person: Person, payment_id: str) -> Any:
    """A payment as its owner sees it."""
    return await person.get(f"/api/v1/currency/payments/{payment_id}")


def report_of(
    payment_id: UUID | str, /, status: PaymentStatus = PaymentStatus.SUCCEEDED, amount: str = "100.00", **changes: Any
) -> PaymentReport:
    """What the mock provider would say of a payment of ten ZNC."""
    return PaymentReport(
        **{
            "provider_payment_id": f"mock_{UUID(str(payment_id)).hex}",
            "payment_id": UUID(str(payment_id)),
            "status": status,
            "amount": Decimal(amount),
            "currency": "RUB",
            **changes,
        }
    )


def signed(settings: Settings, body: bytes, *, now: datetime, secret: str | None = None, age_s: float = 0) -> str:
    """The signature header's value for a body."""
    return signature.sign(body, secret=secret or webhook_secrets(settings)[0], at=now - timedelta(seconds=age_s))


async def deliver(
    client: aiohttp.ClientSession, ctx: Context, report: PaymentReport, **how: Any
) -> tuple[int, dict[str, Any]]:
    """Deliver an event of the mock provider; status and answer."""
    body = write_event(report)
    return await post_event(client, body, signed(ctx.settings, body, now=ctx.now(), **how))


async def post_event(
    client: aiohttp.ClientSession, body: bytes, header: str | None, *, path: str = WEBHOOK_PATH
) -> tuple[int, dict[str, Any]]:
    """Post an event with a signature header."""
    headers = {} if header is None else {SIGNATURE_HEADER: header}
    async with client.post(path, data=body, headers=headers) as response:
        return response.status, await response.json(content_type=None)
