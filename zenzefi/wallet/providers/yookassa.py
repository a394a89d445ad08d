"""YooKassa, REST API v3 (yookassa.ru/developers): payments that are captured at once and confirmed by redirect.

Its notifications carry no signature. Each is a hint only, and the payment itself is asked for.
"""

import json
from base64 import b64encode

from zenzefi.settings import PaymentProviderName, Settings
from zenzefi.wallet.payment_errors import (
    BadNotice,
    NoticeFromElsewhere,
    PaymentProviderError,
    PaymentRefusedByProvider,
)
from zenzefi.wallet.payment_models import (
    Notice,
    OpenedPayment,
    Payment,
    PaymentHint,
    PaymentReport,
    PaymentStatus,
)
from zenzefi.wallet.providers import answers
from zenzefi.wallet.providers.answers import METADATA_KEY, JsonMembers, Unreadable
from zenzefi.wallet.providers.api import ProviderApi

# waiting_for_capture cannot come, since we ask for capture; if it does, the money is not ours yet.
_STATUS = {
    "pending": PaymentStatus.PENDING,
    "waiting_for_capture": PaymentStatus.PENDING,
    "succeeded": PaymentStatus.SUCCEEDED,
    "canceled": PaymentStatus.CANCELED,
}
# Why YooKassa itself ends a payment that nobody went on with.
_EXPIRED_REASONS = frozenset({"expired_on_confirmation", "expired_on_capture"})


class YooKassa:
    """A shop at YooKassa."""

    name = PaymentProviderName.YOOKASSA

    def __init__(self, settings: Settings) -> None:
        """Take the shop's id and secret key, and where its notifications may come from."""
        credentials = b64encode(f"{settings.yookassa_shop_id}:{settings.yookassa_secret_key}".encode()).decode()
        self._networks = settings.yookassa_networks
        self._api = ProviderApi(
            provider=self.name,
            url=settings.yookassa_api_url,
            headers={"Authorization": f"Basic {credentials}"},
            timeout_s=settings.payment_provider_timeout_s,
        )

    async def open(self, payment: Payment) -> OpenedPayment:
        """POST /payments; the payment's id is the idempotence key, so that a repetition finds the first one."""
        request = {
            "amount": {"value": f"{payment.amount:.2f}", "currency": payment.currency},
            "capture": True,
            "confirmation": {"type": "redirect", "return_url": payment.return_url},
            "description": f"{payment.amount_znc:.2f} ZNC",
            "metadata": {METADATA_KEY: str(payment.id)},
        }
        answer = await self._api.post(
            "/payments",
            headers={"Idempotence-Key": str(payment.id)},
            body=json.dumps(request).encode(),
        )
        try:
            if answers.text(answer, "status") == "canceled":  # such as a shop that may not take this kind of payment
                raise PaymentRefusedByProvider
            page = answers.web_address(answers.member(answer, "confirmation"), "confirmation_url")
            return OpenedPayment(provider_payment_id=answers.provider_id(answer), payment_url=page)
        except Unreadable:
            raise PaymentProviderError from None

    async def find(self, provider_payment_id: str) -> PaymentReport | None:
        """GET /payments/{id}."""
        answer = await self._api.get(f"/payments/{provider_payment_id}")
        return None if answer is None else _report(answer)

    async def cancel(self, provider_payment_id: str) -> PaymentReport | None:
        """YooKassa ends an unpaid payment by itself and lets nobody do so before: this only looks again."""
        return await self.find(provider_payment_id)

    def read_notice(self, notice: Notice) -> PaymentHint | None:
        """Which payment a notification is about; those about refunds and payouts are of no interest."""
        if self._networks and not any(notice.source in network for network in self._networks if notice.source):
            raise NoticeFromElsewhere
        try:
            data = answers.parse_object(notice.body)
            if not answers.text(data, "event").startswith("payment."):
                return None
            payment = answers.member(data, "object")
            return PaymentHint(provider_payment_id=answers.provider_id(payment), payment_id=answers.our_id(payment))
        except Unreadable as error:
            raise BadNotice(f"The notification cannot be read: {error}.") from None


def _report(answer: JsonMembers) -> PaymentReport:
    try:
        amount = answers.member(answer, "amount")
        return PaymentReport(
            provider_payment_id=answers.provider_id(answer),
            payment_id=answers.our_id(answer),
            status=_status(answer),
            amount=answers.money(amount.get("value")),
            currency=answers.text(amount, "currency"),
        )
    except Unreadable:
        raise PaymentProviderError from None


def _status(answer: JsonMembers) -> PaymentStatus:
    status = _STATUS.get(answers.text(answer, "status"))
    if status is None:
        raise Unreadable("status is unknown")
    details = answer.get("cancellation_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    if status is PaymentStatus.CANCELED and reason in _EXPIRED_REASONS:
        return PaymentStatus.EXPIRED
    return status
