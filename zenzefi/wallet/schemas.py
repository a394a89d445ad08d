"""What the wallet's routes take and answer."""

from decimal import Decimal

from marshmallow import Schema, fields

from zenzefi.errors import JsonObject
from zenzefi.wallet.models import CENT, CURRENCY, LedgerEntry, TransactionType
from zenzefi.web.fields import Money, Timestamp
from zenzefi.web.paging import PageQuerySchema
from zenzefi.web.responses import format_time

# As much as one payment of a real provider may be.
MAX_PURCHASE = Decimal("100000.00")


class BalanceSchema(Schema):
    """A wallet's balance."""

    balance = Money(required=True)
    currency = fields.String(required=True, metadata={"enum": [CURRENCY]})


class TransactionSchema(Schema):
    """A transaction as the wallet's owner sees it."""

    id = fields.UUID(required=True)
    amount = Money(required=True, metadata={"description": "above 0 when the wallet received it"})
    transaction_type = fields.Enum(TransactionType, by_value=True, required=True)
    description = fields.String(required=True)
    payment_id = fields.UUID(required=True, allow_none=True)
    balance_after = Money(required=True)
    created_at = Timestamp(required=True)


class TransactionPageSchema(Schema):
    """One page of a wallet's history, newest first."""

    items = fields.List(fields.Nested(TransactionSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class TransactionQuerySchema(PageQuerySchema):
    """Which part of a wallet's history is asked for."""

    transaction_type = fields.Enum(TransactionType, by_value=True)


class MockPurchaseSchema(Schema):
    """A top-up that nobody pays for."""

    amount = Money(required=True, least=CENT, most=MAX_PURCHASE)


def transaction_json(entry: LedgerEntry) -> JsonObject:
    """An entry in the form of TransactionSchema; written out, because marshmallow takes ten times as long."""
    return {
        "id": str(entry.transaction_id),
        "amount": f"{entry.amount:.2f}",
        "transaction_type": entry.transaction_type.value,
        "description": entry.description,
        "payment_id": None if entry.payment_id is None else str(entry.payment_id),
        "balance_after": f"{entry.balance_after:.2f}",
        "created_at": format_time(entry.created_at),
    }
