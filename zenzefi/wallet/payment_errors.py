"""What can be wrong with a payment, for the payer and for the provider that reports it."""

from typing import ClassVar

from zenzefi.errors import BadRequest, Conflict, Forbidden, NotFound, Unavailable, ZenzefiError


class PaymentsNotOffered(NotFound):
    """Payments are not offered here"""

    code: ClassVar[str] = "payments_not_offered"


class PaymentNotFound(NotFound):
    """There is no such payment"""

    code: ClassVar[str] = "payment_not_found"


class UnknownPaymentProvider(NotFound):
    """There is no such payment provider here"""

    code: ClassVar[str] = "unknown_payment_provider"


class PaymentEnded(Conflict):
    """The payment has ended and cannot be paid any more"""

    code: ClassVar[str] = "payment_ended"


class PaymentProviderUnavailable(Unavailable):
    """The payment provider cannot be reached for the moment"""

    code: ClassVar[str] = "payment_provider_unavailable"

    def __init__(self) -> None:
        """Say that no money moved."""
        super().__init__("Nothing was charged. Try again in 5 s with the same Idempotency-Key.", retry_after_s=5)


class PaymentProviderError(ZenzefiError):
    """The payment provider's answer cannot be used"""

    status: ClassVar[int] = 502
    code: ClassVar[str] = "payment_provider_error"

    def __init__(self, detail: str | None = None) -> None:
        """Say that no money moved."""
        super().__init__(detail or "Nothing was charged. Try again later.")


class PaymentRefusedByProvider(PaymentProviderError):
    """The payment provider refused the payment"""

    code: ClassVar[str] = "payment_refused_by_provider"


class BadSignature(BadRequest):
    """The event's signature is missing or wrong"""

    code: ClassVar[str] = "bad_signature"


class StaleNotice(BadRequest):
    """The event was signed too long ago or in the future"""

    code: ClassVar[str] = "stale_event"


class BadNotice(BadRequest):
    """The event cannot be read"""

    code: ClassVar[str] = "bad_event"


class NoticeFromElsewhere(Forbidden):
    """The event does not come from the provider's network"""

    code: ClassVar[str] = "event_from_elsewhere"


class PaymentMismatch(Conflict):
    """The event contradicts the payment"""

    code: ClassVar[str] = "payment_mismatch"
