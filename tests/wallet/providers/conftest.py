"""A shop: the application with a provider of its own, once with YooKassa and once with Stripe."""

import dataclasses
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from tests.support.inprocess import run_app
from tests.support.people import Person, register
from tests.support.servers import Cluster
from tests.wallet.payments import buy, put_checks_off
from tests.wallet.providers.servers import (
    SHOP_ID,
    SHOP_SECRET,
    STRIPE_SECRET,
    WEBHOOK_SECRET,
    FakeProvider,
    run_provider,
)
from zenzefi.context import Context
from zenzefi.settings import PaymentProviderName
from zenzefi.wallet.providers import signature


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shop:
    """What a test of a provider works with."""

    ctx: Context
    client: aiohttp.ClientSession
    provider: FakeProvider
    person: Person
    cluster: Cluster

    async def buy(self, **headers: str) -> tuple[str, str]:
        """A payment that can be paid: our id and the provider's."""
        status, begun = await buy(self.person, **headers)
        assert status == 201, begun
        known = await self.row(begun["payment_id"])
        return begun["payment_id"], known["provider_payment_id"]

    async def row(self, payment_id: str) -> Any:
        """What the database has of a payment."""
        async with self.ctx.connection() as conn:
            return await conn.fetchrow("SELECT * FROM payments WHERE id = $1", UUID(payment_id))

    async def deliver(self, body: bytes, **changes: Any) -> tuple[int, Any]:
        """Send an event as the provider does."""
        path = f"/api/v1/webhooks/payments/{self.provider.name}"
        headers = {}
        if self.provider.name is PaymentProviderName.STRIPE:
            how = {"secret": WEBHOOK_SECRET, "at": self.ctx.now(), **changes}
            headers["Stripe-Signature"] = signature.sign(body, **how)
        async with self.client.post(path, data=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def age(self, payment_id: str, age: timedelta) -> None:
        """Have a payment be begun earlier, and its check be due."""
        connection = await self.cluster.connect(self.ctx.settings.postgres_db)
        try:
            query = "UPDATE payments SET created_at = $2, next_check_at = $2 WHERE id = $1"
            await connection.execute(query, UUID(payment_id), self.ctx.now() - age)
        finally:
            await connection.close()


@pytest.fixture(params=[PaymentProviderName.YOOKASSA, PaymentProviderName.STRIPE])
async def shop(request: pytest.FixtureRequest, ctx: Context, cluster: Cluster) -> AsyncIterator[Shop]:
    """The application with a provider of its own."""
    await put_checks_off(ctx)
    async with run_provider(request.param) as provider:
        settings = dataclasses.replace(
            ctx.settings,
            payment_provider=provider.name,
            payment_provider_timeout_s=3.0,
            payment_webhook_secrets=(WEBHOOK_SECRET,),
            yookassa_api_url=f"{provider.url}/v3",
            yookassa_shop_id=SHOP_ID if provider.name is PaymentProviderName.YOOKASSA else "",
            yookassa_secret_key=SHOP_SECRET,
            stripe_api_url=provider.url,
            stripe_secret_key=STRIPE_SECRET if provider.name is PaymentProviderName.STRIPE else "",
        )
        own = dataclasses.replace(ctx, settings=settings)
        async with run_app(own) as url, aiohttp.ClientSession(url) as client:
            person = await register(client)
            yield Shop(ctx=own, client=client, provider=provider, person=person, cluster=cluster)


only_yookassa = pytest.mark.parametrize("shop", [PaymentProviderName.YOOKASSA], indirect=True)
only_stripe = pytest.mark.parametrize("shop", [PaymentProviderName.STRIPE], indirect=True)
