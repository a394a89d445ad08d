"""What the routes of this slice take in and give out."""

from datetime import datetime

from marshmallow import Schema, fields

from zenzefi.access.models import AccessToken, IssuedToken
from zenzefi.errors import JsonObject
from zenzefi.web.fields import Flag, Money, Text, Timestamp, WholeNumber
from zenzefi.web.paging import PageQuerySchema
from zenzefi.web.responses import format_time

_MAX_INT4 = 2**31 - 1


class PurchaseSchema(Schema):
    """Which token to buy."""

    duration_hours = WholeNumber(
        least=1,
        most=_MAX_INT4,
        required=True,
        metadata={"description": "1, 12, 24, 168 or 720", "example": 24},
    )
    scope = Text(
        max_length=63, load_default="full", metadata={"description": "full or certificates_only", "example": "full"}
    )


class TokenQuerySchema(PageQuerySchema):
    """Which of one's tokens to list."""

    active_only = Flag(load_default=True, metadata={"description": "false lists ended and expired tokens, too"})


class TokenSchema(Schema):
    """An access token as its owner sees it; the clock starts at its first use."""

    id = fields.UUID(required=True)
    token_hint = fields.String(required=True, metadata={"description": "How the token begins", "example": "znz_Q7fk"})
    duration_hours = fields.Integer(required=True)
    scope = fields.String(required=True)
    cost_znc = Money(required=True)
    created_at = Timestamp(required=True)
    activated_at = Timestamp(required=True, allow_none=True)
    expires_at = Timestamp(required=True, allow_none=True)
    is_active = fields.Boolean(required=True, metadata={"description": "Neither ended nor expired"})


class IssuedTokenSchema(TokenSchema):
    """An access token with its string, which is shown this once."""

    token = fields.String(required=True, metadata={"description": "Send it as X-Access-Token; it is not shown again"})


class TokenPageSchema(Schema):
    """A page of tokens, the newest first."""

    items = fields.List(fields.Nested(TokenSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class RefundSchema(Schema):
    """What a refund gave back."""

    revoked = fields.Boolean(required=True)
    refund_amount = Money(required=True)
    new_balance = Money(required=True)


class DeviceReleaseSchema(Schema):
    """The device is free; when it may be freed again."""

    released = fields.Boolean(required=True)
    next_release_at = Timestamp(required=True)


def token_json(token: AccessToken, *, now: datetime) -> JsonObject:
    """A token in the form of TokenSchema."""
    return {
        "id": str(token.token_id),
        "token_hint": token.token_hint,
        "duration_hours": token.duration_hours,
        "scope": token.scope,
        "cost_znc": f"{token.price:.2f}",
        "created_at": format_time(token.created_at),
        "activated_at": None if token.activated_at is None else format_time(token.activated_at),
        "expires_at": None if token.expires_at is None else format_time(token.expires_at),
        "is_active": token.is_open(now),
    }


def issued_token_json(issued: IssuedToken, *, now: datetime) -> JsonObject:
    """A token with its string, in the form of IssuedTokenSchema."""
    return {"token": issued.token_string, **token_json(issued.token, now=now)}
