"""Development's payment provider: a page of ours that pays or cancels, and events that are signed like real ones.

What it knows is kept in Redis, as a real provider's is elsewhere; the wallet learns of it only by events and questions.
"""

import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

from zenzefi.context import Context
from zenzefi.settings import PaymentProviderName, Settings
from zenzefi.wallet.payment_errors import BadNotice
from zenzefi.wallet.payment_models import Notice, OpenedPayment, Payment, PaymentReport, PaymentStatus
from zenzefi.wallet.providers import answers, signature
from zenzefi.wallet.providers.answers import METADATA_KEY, Unreadable
from zenzefi.wallet.providers.api import ProviderApi

SIGNATURE_HEADER = "Mock-Signature"
WEBHOOK_PATH = "/api/v1/webhooks/payments/mock"
# Longer than any payment of development is of interest.
_KEPT_FOR = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class MockPayment:
    """A payment as the mock provider knows it."""

    report: PaymentReport
    return_url: str


class MockProvider:
    """A provider that moves no money."""

    name = PaymentProviderName.MOCK

    def __init__(self, ctx: Context) -> None:
        """Take where its memory and its page are."""
        self._ctx = ctx

    async def open(self, payment: Payment) -> OpenedPayment:
        """Remember the payment; a repetition changes nothing."""
        provider_payment_id = f"mock_{payment.id.hex}"
        record = {
            METADATA_KEY: str(payment.id),
            "amount": f"{payment.amount:.2f}",
            "currency": payment.currency,
            "return_url": payment.return_url,
        }
        await self._remember(provider_payment_id, "record", json.dumps(record))
        page = f"{self._ctx.settings.backend_url.rstrip('/')}/mock-payments/{provider_payment_id}"
        return OpenedPayment(provider_payment_id=provider_payment_id, payment_url=page)

    async def find(self, provider_payment_id: str) -> PaymentReport | None:
        """How the payment stands."""
        payment = await self.find_payment(provider_payment_id)
        return None if payment is None else payment.report

    async def find_payment(self, provider_payment_id: str) -> MockPayment | None:
        """The payment with all that its page shows."""
        record = await self._recall(provider_payment_id, "record")
        if record is None:
            return None
        known: dict[str, str] = json.loads(record)
        outcome = await self._recall(provider_payment_id, "outcome")
        report = PaymentReport(
            provider_payment_id=provider_payment_id,
            payment_id=UUID(known[METADATA_KEY]),
            status=PaymentStatus.PENDING if outcome is None else PaymentStatus(outcome),
            amount=Decimal(known["amount"]),
            currency=known["currency"],
        )
        return MockPayment(report=report, return_url=known["return_url"])

    async def cancel(self, provider_payment_id: str) -> PaymentReport | None:
        """End the payment, unless it has ended."""
        return await self.end(provider_payment_id, PaymentStatus.EXPIRED)

    async def end(self, provider_payment_id: str, outcome: PaymentStatus) -> PaymentReport | None:
        """Give the payment its outcome; the first one stays."""
        await self._remember(provider_payment_id, "outcome", outcome.value)
        return await self.find(provider_payment_id)

    async def send_event(self, report: PaymentReport) -> None:
        """Tell the webhook how a payment ended, over HTTP as a stranger would.

        Raises:
            PaymentProviderUnavailable, PaymentProviderError: it did not take the event.
        """
        settings = self._ctx.settings
        api = ProviderApi(
            provider=self.name,
            url=settings.backend_url.rstrip("/"),
            headers={},
            timeout_s=settings.payment_provider_timeout_s,
        )
        body = write_event(report)
        header = signature.sign(body, secret=webhook_secrets(settings)[0], at=self._ctx.now())
        await api.post(WEBHOOK_PATH, headers={SIGNATURE_HEADER: header}, body=body)

    def read_notice(self, notice: Notice) -> PaymentReport | None:
        """What a signed event says."""
        signature.verify(
            notice.body,
            headers=notice.headers.get(SIGNATURE_HEADER.lower(), ()),
            secrets=webhook_secrets(self._ctx.settings),
            now=notice.received_at,
        )
        try:
            payment = answers.member(answers.parse_object(notice.body), "object")
            return PaymentReport(
                provider_payment_id=answers.provider_id(payment),
                payment_id=answers.our_id(payment),
                status=_status(answers.text(payment, "status")),
                amount=answers.money(payment.get("amount")),
                currency=answers.text(payment, "currency"),
            )
        except Unreadable as error:
            raise BadNotice(f"The event cannot be read: {error}.") from None

    async def _remember(self, provider_payment_id: str, what: str, text: str) -> None:
        key = f"znz:mock-payment:{provider_payment_id}:{what}"
        await self._ctx.redis.run("SET", key, text, "NX", "EX", int(_KEPT_FOR.total_seconds()))

    async def _recall(self, provider_payment_id: str, what: str) -> str | None:
        raw = await self._ctx.redis.run("GET", f"znz:mock-payment:{provider_payment_id}:{what}")
        return raw.decode() if isinstance(raw, bytes) else None


def webhook_secrets(settings: Settings) -> tuple[str, ...]:
    """What the mock's events are signed with: the secrets that are set, or one that follows from SECRET_KEY."""
    derived = hmac.new(settings.secret_key.encode(), b"zenzefi mock payment events", hashlib.sha256).hexdigest()
    return settings.payment_webhook_secrets or (derived,)


def write_event(report: PaymentReport) -> bytes:
    """The event that tells how a payment stands."""
    event = {
        "event": f"payment.{report.status}",
        "object": {
            "id": report.provider_payment_id,
            "status": report.status.value,
            "amount": f"{report.amount:.2f}",
            "currency": report.currency,
            "metadata": {METADATA_KEY: str(report.payment_id)} if report.payment_id else {},
        },
    }
    return json.dumps(event).encode()


def _status(word: str) -> PaymentStatus:
    try:
        return PaymentStatus(word)
    except ValueError:
        raise Unreadable("status is unknown") from None
