"""YooKassa and Stripe on this machine: servers that follow their published APIs, keep their payments, and can fail.

https://yookassa.ru/developers/api and https://docs.stripe.com/api/checkout/sessions: paths, authentication, idempotence
keys (the same key and request give the first answer; the same key and another request are refused), and errors.
"""

import asyncio
import json
from base64 import b64encode
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

from aiohttp import web

from zenzefi.settings import PaymentProviderName

WEBHOOK_SECRET = "whsec_tests_only_0123456789"
SHOP_ID, SHOP_SECRET = "506751", "test_shop-secret-key-0123456789"
STRIPE_SECRET = "sk_test_secret-key-0123456789"
SECRETS = (WEBHOOK_SECRET, SHOP_SECRET, STRIPE_SECRET, b64encode(f"{SHOP_ID}:{SHOP_SECRET}".encode()).decode())


@dataclass(slots=True)
class FakeProvider:
    """What both have in common. Each request takes one of ``faults``, as long as there are any."""

    name: PaymentProviderName
    url: str = ""
    payments: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    faults: deque[str] = field(default_factory=deque)
    _first: dict[str, tuple[Any, str]] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer, or fail as ``faults`` says."""
        raw = await request.text()
        sent: Any = json.loads(raw) if request.content_type == "application/json" else dict(parse_qsl(raw))
        self.requests.append((request.method, request.path, dict(request.headers), sent))
        fault = self.faults.popleft() if self.faults else ""
        if fault == "hang":
            await asyncio.sleep(300)
        if fault.isdigit():
            return web.json_response(self.error("api_error"), status=int(fault))
        if fault == "drop":
            return self._drop(request)
        if fault == "junk":
            return web.Response(text="<html>", content_type="text/html")
        if fault == "huge":
            return web.Response(body=b"[" * 10_000_000)
        if fault == "empty":
            return web.json_response({})
        if fault == "redirect":
            return web.json_response({}, status=302, headers={"Location": f"{self.url}/elsewhere"})
        status, answer = self.serve(request, sent)
        return self._drop(request) if fault == "drop-answer" else web.json_response(answer, status=status)

    def serve(self, request: web.Request, sent: Any) -> tuple[int, dict[str, Any]]:
        """Answer a request that came through."""
        if request.headers.get("Authorization") != self.authorization:
            return 401, self.error("invalid_credentials")
        parts = request.path.strip("/").split("/")[len(self.root) :]
        if request.method == "POST" and not parts:
            return self._create_once(request.headers[self.key_header], sent)
        payment = self.payments.get(parts[0])
        if payment is None:
            return 404, self.error("not_found")
        if request.method == "POST" and parts[1:] == ["expire"]:
            if payment["status"] != "open":
                return 400, self.error("not_open")
            payment["status"] = "expired"
        return 200, payment

    def _create_once(self, key: str, sent: Any) -> tuple[int, dict[str, Any]]:
        if key not in self._first:
            payment = self.create(sent)
            self._first[key] = (sent, payment["id"])
            self.payments[payment["id"]] = payment
        first_sent, payment_id = self._first[key]
        return (200, self.payments[payment_id]) if first_sent == sent else (400, self.error("idempotency_error"))

    @staticmethod
    def _drop(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    @property
    def root(self) -> tuple[str, ...]:
        """Where payments live."""
        return ("v3", "payments") if self.name is PaymentProviderName.YOOKASSA else ("v1", "checkout", "sessions")

    @property
    def key_header(self) -> str:
        """The header of the idempotence key."""
        return "Idempotence-Key" if self.name is PaymentProviderName.YOOKASSA else "Idempotency-Key"

    @property
    def authorization(self) -> str:
        """The one that is let in."""
        shop = b64encode(f"{SHOP_ID}:{SHOP_SECRET}".encode()).decode()
        return f"Basic {shop}" if self.name is PaymentProviderName.YOOKASSA else f"Bearer {STRIPE_SECRET}"

    def error(self, code: str) -> dict[str, Any]:
        """An error as it is documented."""
        if self.name is PaymentProviderName.YOOKASSA:
            return {"type": "error", "id": str(uuid4()), "code": code, "description": "…", "parameter": "amount"}
        return {"error": {"type": "invalid_request_error", "code": code, "message": "…", "param": "amount"}}

    def create(self, sent: Any) -> dict[str, Any]:
        """A payment, or a Checkout session."""
        if self.name is PaymentProviderName.YOOKASSA:
            payment_id = str(uuid4())
            return {
                "id": payment_id,
                "status": "pending",
                "paid": False,
                "amount": sent["amount"],
                "confirmation": {"type": "redirect", "confirmation_url": f"https://yoomoney.example/{payment_id}"},
                "metadata": sent["metadata"],
                "created_at": "2026-11-23T08:00:00.000Z",
            }
        session_id = f"cs_test_{uuid4().hex}"
        return {
            "id": session_id,
            "object": "checkout.session",
            "status": "open",
            "payment_status": "unpaid",
            "amount_total": int(sent["line_items[0][price_data][unit_amount]"]),
            "currency": sent["line_items[0][price_data][currency]"],
            "metadata": {"payment_id": sent["metadata[payment_id]"]},
            "url": f"https://checkout.stripe.example/c/pay/{session_id}",
        }

    def pay(self, provider_payment_id: str) -> None:
        """Somebody pays."""
        change = (
            {"status": "succeeded", "paid": True}
            if self.name is PaymentProviderName.YOOKASSA
            else {"status": "complete", "payment_status": "paid"}
        )
        self.payments[provider_payment_id].update(change)

    def end(self, provider_payment_id: str, reason: str = "expired_on_confirmation") -> None:
        """Nobody paid."""
        change: dict[str, Any] = {"status": "expired"}
        if self.name is PaymentProviderName.YOOKASSA:
            change = {"status": "canceled", "cancellation_details": {"party": "yoo_money", "reason": reason}}
        self.payments[provider_payment_id].update(change)

    def event(self, provider_payment_id: str, event_type: str | None = None) -> bytes:
        """The event that tells how a payment stands now."""
        payment = self.payments[provider_payment_id]
        if self.name is PaymentProviderName.YOOKASSA:
            body: dict[str, Any] = {"type": "notification", "event": event_type or f"payment.{payment['status']}"}
            body["object"] = payment
        else:
            by_status = {"complete": "checkout.session.completed", "expired": "checkout.session.expired"}
            body = {"id": f"evt_{uuid4().hex}", "object": "event", "livemode": False, "data": {"object": payment}}
            body["type"] = event_type or by_status.get(payment["status"], "checkout.session.created")
        return json.dumps(body, indent=2).encode()  # Stripe's are indented: only the raw bytes carry the signature


@asynccontextmanager
async def run_provider(name: PaymentProviderName) -> AsyncIterator[FakeProvider]:
    """A provider on a free port."""
    provider = FakeProvider(name)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", provider.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield provider
    finally:
        await runner.cleanup()
