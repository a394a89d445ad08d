"""The words of payments: what is collected, what a provider says of it, and how it may go on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

from zenzefi.settings import PaymentProviderName
from zenzefi.wallet.models import CENT

# What ZNC_TO_RUB_RATE counts in.
PAYMENT_CURRENCY = "RUB"


class PaymentStatus(StrEnum):
    """Where a payment stands: it begins pending and ends as one of the others."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    CANCELED = "canceled"
    EXPIRED = "expired"


class PaymentEvent(StrEnum):
    """A line of a payment's timeline; a state that ends it is named like the state."""

    CREATED = "created"
    OPENED = "opened"
    SUCCEEDED = "succeeded"
    CANCELED = "canceled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A top-up of `amount_znc`, for which the provider collects `amount` of `currency`."""

    id: UUID
    user_id: UUID
    provider: PaymentProviderName
    provider_payment_id: str | None
    status: PaymentStatus
    amount_znc: Decimal
    amount: Decimal
    currency: str
    return_url: str
    payment_url: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """What became of a payment, and when."""

    event: PaymentEvent
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedPayment:
    """A payment as the provider knows it, and the page where it is paid."""

    provider_payment_id: str
    payment_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentReport:
    """What a provider vouches for: by its signature, or in answer to our own question.

    `payment_id` is our id, which the provider was given when the payment was opened.
    """

    provider_payment_id: str
    payment_id: UUID | None
    status: PaymentStatus
    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentHint:
    """An unsigned word that something happened to a payment: a reason to ask the provider, and nothing more."""

    provider_payment_id: str
    payment_id: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """An event as it came in, byte for byte: headers by lower-case name, each with all its values."""

    body: bytes = field(repr=False)
    headers: Mapping[str, tuple[str, ...]] = field(repr=False)
    source: IPv4Address | IPv6Address | None
    received_at: datetime


def price_of(amount_znc: Decimal, *, rate: Decimal) -> Decimal:
    """What is collected for an amount of ZNC, rounded to the hundredth, half up."""
    return (amount_znc * rate).quantize(CENT, rounding=ROUND_HALF_UP)


def can_become(status: PaymentStatus, reported: PaymentStatus) -> bool:
    """Whether a payment changes when a provider reports a state of it.

    Success overrules an end without money: whoever has paid is credited, however late or out of order the word comes.
    So the outcome does not depend on the order in which reports arrive.
    """
    if reported is PaymentStatus.SUCCEEDED:
        return status is not PaymentStatus.SUCCEEDED
    return status is PaymentStatus.PENDING and reported is not PaymentStatus.PENDING


def find_mismatch(payment: Payment, report: PaymentReport, *, provider: PaymentProviderName) -> str | None:
    """Name what a report contradicts of its payment; None when they agree."""
    if provider is not payment.provider:
        return "provider"
    if report.payment_id is not None and report.payment_id != payment.id:
        return "payment"
    if payment.provider_payment_id is not None and report.provider_payment_id != payment.provider_payment_id:
        return "provider's payment"
    if report.currency != payment.currency:
        return "currency"
    if report.amount != payment.amount:
        return "amount"
    return None
