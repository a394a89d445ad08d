"""What the wallet asks of a payment provider."""

from typing import Protocol

from zenzefi.settings import PaymentProviderName
from zenzefi.wallet.payment_models import Notice, OpenedPayment, Payment, PaymentHint, PaymentReport


class PaymentProvider(Protocol):
    """Somebody who collects money for us. Every question may be repeated without a second effect.

    Each method that asks the provider raises PaymentProviderUnavailable when no answer comes in time, and
    PaymentProviderError when the answer cannot be used.
    """

    @property
    def name(self) -> PaymentProviderName:
        """What the provider is called in settings, rows and addresses."""

    async def open(self, payment: Payment) -> OpenedPayment:
        """Have the provider make the page where the payment is paid.

        Raises:
            PaymentRefusedByProvider: it will not collect this payment, now or later.
        """

    async def find(self, provider_payment_id: str) -> PaymentReport | None:
        """How a payment stands; None when the provider knows of none such."""

    async def cancel(self, provider_payment_id: str) -> PaymentReport | None:
        """End a payment that nobody has paid, where the provider lets us; how it stands then, as for ``find``."""

    def read_notice(self, notice: Notice) -> PaymentReport | PaymentHint | None:
        """What an event says: a report where its signature vouches for it, else a hint; None when it is of no interest.

        Raises:
            BadSignature, StaleNotice, NoticeFromElsewhere, BadNotice: it is not the provider's, or cannot be read.
        """
