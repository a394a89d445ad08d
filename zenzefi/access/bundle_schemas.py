"""What the bundle routes take in and give out."""

from decimal import Decimal
from typing import Final

from marshmallow import Schema, fields

from zenzefi.access.bundle_models import Bundle, BundlePrice
from zenzefi.access.schemas import IssuedTokenSchema
from zenzefi.errors import JsonObject
from zenzefi.web.fields import Line, Money, WholeNumber

_MAX_TOKENS: Final = 100  # of one bundle: all are made in one transaction, while the wallet is locked
_MAX_HOURS: Final = 2**31 - 1
_MAX_DISCOUNT: Final = Decimal("99.99")


class BundleTermsSchema(Schema):
    """What a superuser says of a bundle."""

    name = Line(required=True, max_length=100)
    description = Line(max_length=1000, load_default="", may_be_blank=True)
    token_count = WholeNumber(required=True, least=1, most=_MAX_TOKENS)
    duration_hours = WholeNumber(required=True, least=1, most=_MAX_HOURS, metadata={"example": 24})
    scope = Line(max_length=63, load_default="full")
    discount_percent = Money(
        load_default=Decimal("0.00"), least=Decimal("0.00"), most=_MAX_DISCOUNT, metadata={"example": "15.00"}
    )


class BundleChangesSchema(BundleTermsSchema):
    """What of a bundle is to be another; what is left out stays."""


class BundleSchema(Schema):
    """A bundle and what it costs now, in ZNC."""

    id = fields.UUID(required=True)
    name = fields.String(required=True)
    description = fields.String(required=True)
    token_count = fields.Integer(required=True)
    duration_hours = fields.Integer(required=True)
    scope = fields.String(required=True)
    discount_percent = Money(required=True)
    base_price = Money(required=True, metadata={"description": "of as many tokens bought one by one"})
    total_price = Money(required=True)
    savings = Money(required=True)
    price_per_token = Money(required=True, metadata={"description": "of the dearest, where they differ by 0.01"})


class BundlePageSchema(Schema):
    """A page of bundles, the oldest first."""

    items = fields.List(fields.Nested(BundleSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class BundlePurchaseSchema(Schema):
    """The tokens of a bundle that was just bought."""

    bundle_name = fields.String(required=True)
    tokens = fields.List(fields.Nested(IssuedTokenSchema), required=True)
    cost_znc = Money(required=True)
    new_balance = Money(required=True)


def bundle_json(bundle: Bundle, *, price: BundlePrice) -> JsonObject:
    """A bundle in the form of BundleSchema."""
    terms = bundle.terms
    return {
        "id": str(bundle.bundle_id),
        "name": terms.name,
        "description": terms.description,
        "token_count": terms.token_count,
        "duration_hours": terms.duration_hours,
        "scope": terms.scope,
        "discount_percent": f"{terms.discount_percent:.2f}",
        "base_price": f"{price.base:.2f}",
        "total_price": f"{price.total:.2f}",
        "savings": f"{price.savings:.2f}",
        "price_per_token": f"{price.token_prices[0]:.2f}",
    }
