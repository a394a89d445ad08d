"""What the payments' routes take and answer."""

from decimal import Decimal

from marshmallow import Schema, fields

from zenzefi.wallet.payment_models import PAYMENT_CURRENCY, PaymentEvent, PaymentStatus
from zenzefi.wallet.payments import MAX_RETURN_URL_CHARS
from zenzefi.wallet.schemas import MAX_PURCHASE
from zenzefi.web.fields import Money, Text, Timestamp

# Less is not worth a provider's fee, and some refuse it.
MIN_PURCHASE = Decimal("1.00")


class TopUpSchema(Schema):
    """What is to be paid, and where the payer goes then."""

    amount_znc = Money(required=True, least=MIN_PURCHASE, most=MAX_PURCHASE)
    return_url = Text(
        required=True,
        max_length=MAX_RETURN_URL_CHARS,
        metadata={"format": "uri", "description": "https, on a host of PAYMENT_RETURN_HOSTS"},
    )


class StartedPaymentSchema(Schema):
    """A payment that has begun."""

    payment_id = fields.UUID(required=True)
    amount_znc = Money(required=True)
    amount = Money(required=True, metadata={"description": "what is collected"})
    currency = fields.String(required=True, metadata={"enum": [PAYMENT_CURRENCY]})
    status = fields.Enum(PaymentStatus, by_value=True, required=True)
    payment_url = fields.String(required=True, metadata={"description": "the page to pay on"})


class TimelineEntrySchema(Schema):
    """What became of a payment, and when."""

    event = fields.Enum(PaymentEvent, by_value=True, required=True)
    at = Timestamp(required=True)


class PaymentSchema(Schema):
    """A payment as its owner sees it."""

    payment_id = fields.UUID(required=True, attribute="id")
    amount_znc = Money(required=True)
    amount = Money(required=True)
    currency = fields.String(required=True, metadata={"enum": [PAYMENT_CURRENCY]})
    status = fields.Enum(PaymentStatus, by_value=True, required=True)
    payment_url = fields.String(required=True, allow_none=True)
    created_at = Timestamp(required=True)
    timeline = fields.List(fields.Nested(TimelineEntrySchema), required=True)


class ReceivedSchema(Schema):
    """What a provider's event is answered with once it is taken care of."""

    received = fields.Boolean(required=True)
