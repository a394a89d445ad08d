"""Stripe Checkout (docs.stripe.com/api/checkout/sessions): a hosted page, and events that Stripe signs."""

from datetime import timedelta

from zenzefi.settings import PaymentProviderName, Settings
from zenzefi.wallet.payment_errors import BadNotice, PaymentProviderError, PaymentRefusedByProvider
from zenzefi.wallet.payment_models import Notice, OpenedPayment, Payment, PaymentReport, PaymentStatus
from zenzefi.wallet.providers import answers, signature
from zenzefi.wallet.providers.answers import METADATA_KEY, JsonMembers, Unreadable
from zenzefi.wallet.providers.api import ProviderApi

# The version whose members are read here; the account's default may be another.
API_VERSION = "2024-06-20"
# The least that Stripe allows is 30 minutes from when it hears of it, and retries may take some of that.
SESSION_LIFETIME = timedelta(hours=1)
_SIGNATURE_HEADER = "stripe-signature"
# The events that say how a session stands; an endpoint may be sent any others, too.
_STATUS_BY_EVENT = {
    "checkout.session.completed": None,  # paid, or being paid by a slow method: the session says which
    "checkout.session.async_payment_succeeded": PaymentStatus.SUCCEEDED,
    "checkout.session.async_payment_failed": PaymentStatus.CANCELED,
    "checkout.session.expired": PaymentStatus.EXPIRED,
}


class Stripe:
    """An account at Stripe."""

    name = PaymentProviderName.STRIPE

    def __init__(self, settings: Settings) -> None:
        """Take the account's secret key and the secrets of the webhook endpoint."""
        self._secrets = settings.payment_webhook_secrets
        self._api = ProviderApi(
            provider=self.name,
            url=settings.stripe_api_url,
            headers={"Authorization": f"Bearer {settings.stripe_secret_key}", "Stripe-Version": API_VERSION},
            timeout_s=settings.payment_provider_timeout_s,
        )

    async def open(self, payment: Payment) -> OpenedPayment:
        """POST /v1/checkout/sessions; the payment's id is the idempotency key, all else follows from its row."""
        product = "line_items[0][price_data]"
        answer = await self._api.post(
            "/v1/checkout/sessions",
            headers={"Idempotency-Key": str(payment.id)},
            body={
                "mode": "payment",
                "client_reference_id": str(payment.id),
                f"metadata[{METADATA_KEY}]": str(payment.id),
                f"payment_intent_data[metadata][{METADATA_KEY}]": str(payment.id),
                "line_items[0][quantity]": "1",
                f"{product}[currency]": payment.currency.lower(),
                f"{product}[unit_amount]": str(int(payment.amount.scaleb(2))),
                f"{product}[product_data][name]": f"{payment.amount_znc:.2f} ZNC",
                "success_url": payment.return_url,
                "cancel_url": payment.return_url,
                "expires_at": str(int((payment.created_at + SESSION_LIFETIME).timestamp())),
            },
        )
        try:
            return OpenedPayment(
                provider_payment_id=answers.provider_id(answer), payment_url=answers.web_address(answer, "url")
            )
        except Unreadable:
            raise PaymentProviderError from None

    async def find(self, provider_payment_id: str) -> PaymentReport | None:
        """GET /v1/checkout/sessions/{id}."""
        answer = await self._api.get(f"/v1/checkout/sessions/{provider_payment_id}")
        return None if answer is None else _checked_report(answer)

    async def cancel(self, provider_payment_id: str) -> PaymentReport | None:
        """POST /v1/checkout/sessions/{id}/expire; Stripe refuses it for a session that is no longer open."""
        try:
            answer = await self._api.post(f"/v1/checkout/sessions/{provider_payment_id}/expire", body={})
        except PaymentRefusedByProvider:
            return await self.find(provider_payment_id)
        return _checked_report(answer)

    def read_notice(self, notice: Notice) -> PaymentReport | None:
        """What a signed event says of a Checkout session."""
        signature.verify(
            notice.body,
            headers=notice.headers.get(_SIGNATURE_HEADER, ()),
            secrets=self._secrets,
            now=notice.received_at,
        )
        try:
            event = answers.parse_object(notice.body)
            event_type = answers.text(event, "type")
            if event_type not in _STATUS_BY_EVENT:
                return None
            session = answers.member(answers.member(event, "data"), "object")
            report = _report(session, status=_STATUS_BY_EVENT[event_type])
            # The account may sell other things, too: a session that we did not begin is nobody's here.
            return None if report.payment_id is None else report
        except Unreadable as error:
            raise BadNotice(f"The event cannot be read: {error}.") from None


def _checked_report(session: JsonMembers) -> PaymentReport:
    try:
        return _report(session, status=None)
    except Unreadable:
        raise PaymentProviderError from None


def _report(session: JsonMembers, *, status: PaymentStatus | None) -> PaymentReport:
    return PaymentReport(
        provider_payment_id=answers.provider_id(session),
        payment_id=answers.our_id(session),
        status=status or _status(session),
        amount=answers.hundredths(session.get("amount_total")),
        currency=answers.text(session, "currency").upper(),
    )


def _status(session: JsonMembers) -> PaymentStatus:
    if answers.text(session, "payment_status") != "unpaid":  # no_payment_required is a wrong amount, and is found so
        return PaymentStatus.SUCCEEDED
    if answers.text(session, "status") == "expired":
        return PaymentStatus.EXPIRED
    return PaymentStatus.PENDING
