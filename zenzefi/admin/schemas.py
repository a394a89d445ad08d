"""What the admin routes take and answer."""

from datetime import datetime
from typing import Final

from marshmallow import Schema, ValidationError, fields

from zenzefi.access.models import AccessToken
from zenzefi.access.schemas import TokenQuerySchema, TokenSchema, token_json
from zenzefi.accounts.rules import EMAIL_MAX_LENGTH
from zenzefi.accounts.schemas import UserSchema
from zenzefi.audit.models import ActorKind
from zenzefi.errors import JsonObject
from zenzefi.wallet.models import MAX_BALANCE
from zenzefi.web.fields import Flag, Line, Money, Text, Timestamp
from zenzefi.web.paging import PageQuerySchema

_MAX_ACTION_CHARS: Final = 64
_MAX_REASON_CHARS: Final = 500


class RateLimitSchema(Schema):
    """What is used and left of a limit."""

    limit_class = fields.String(required=True, data_key="class")
    subject = fields.String(required=True)
    limit = fields.Integer(required=True)
    window = fields.Integer(required=True, metadata={"description": "seconds"})
    used = fields.Integer(required=True)
    remaining = fields.Integer(required=True)


class UserQuerySchema(PageQuerySchema):
    """Which users to list."""

    search = Text(
        max_length=EMAIL_MAX_LENGTH,
        load_default=None,
        metadata={"description": "How the e-mail address or the username begins, in any case"},
    )
    is_active = Flag(load_default=None, metadata={"description": "false lists the banned, true all others"})


class UserPageSchema(Schema):
    """A page of users, the newest first."""

    items = fields.List(fields.Nested(UserSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class FlagsSchema(Schema):
    """What a superuser may set of another user; what is left out stays as it is."""

    is_active = Flag(metadata={"description": "false bans: logins end at once, tokens within a second"})
    is_superuser = Flag()


def _require_an_amount(amount: object) -> None:
    if not amount:
        raise ValidationError("Give an amount above or below 0.")


class AdjustmentSchema(Schema):
    """A correction of a wallet."""

    amount = Money(
        required=True,
        least=-MAX_BALANCE,
        most=MAX_BALANCE,
        validate=_require_an_amount,
        metadata={"description": "above 0 gives, below 0 takes", "example": "-18.00"},
    )
    reason = Line(
        required=True,
        max_length=_MAX_REASON_CHARS,
        metadata={"description": "Why; the wallet's owner sees it in the history"},
    )


class AdminTokenQuerySchema(TokenQuerySchema):
    """Which tokens to list."""

    user_id = fields.UUID(load_default=None)


class AdminTokenSchema(TokenSchema):
    """A token as a superuser sees it; never its string."""

    user_id = fields.UUID(required=True)
    end_reason = fields.String(
        required=True, allow_none=True, metadata={"enum": ["refunded", "revoked", "expired", None]}
    )


class AdminTokenPageSchema(Schema):
    """A page of tokens, the newest first."""

    items = fields.List(fields.Nested(AdminTokenSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class RevocationQuerySchema(Schema):
    """How to revoke."""

    refund = Flag(load_default=False, metadata={"description": "true gives the price back, if it was never activated"})


class RevocationSchema(Schema):
    """What came of a forced revocation."""

    revoked = fields.Boolean(required=True)
    user_id = fields.UUID(required=True)
    refund_amount = Money(required=True)


class AuditQuerySchema(PageQuerySchema):
    """Which rows of the audit log to list."""

    user_id = fields.UUID(load_default=None, metadata={"description": "who acted"})
    action = Text(max_length=_MAX_ACTION_CHARS, load_default=None, metadata={"example": "token.purchase"})
    resource_type = Text(max_length=_MAX_ACTION_CHARS, load_default=None, metadata={"example": "access_token"})


class AuditEntrySchema(Schema):
    """A row of the audit log."""

    id = fields.UUID(required=True)
    at = Timestamp(required=True)
    actor_kind = fields.Enum(ActorKind, by_value=True, required=True)
    actor_user_id = fields.UUID(required=True, allow_none=True)
    action = fields.String(required=True)
    resource_type = fields.String(required=True)
    resource_id = fields.String(required=True)
    before = fields.Dict(required=True, allow_none=True)
    after = fields.Dict(required=True, allow_none=True)
    ip = fields.String(required=True, allow_none=True)
    user_agent = fields.String(required=True, allow_none=True)
    request_id = fields.String(required=True, allow_none=True)


class AuditPageSchema(Schema):
    """A page of the audit log, the newest first."""

    items = fields.List(fields.Nested(AuditEntrySchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


def admin_token_json(token: AccessToken, *, now: datetime) -> JsonObject:
    """A token in the form of AdminTokenSchema."""
    return {
        **token_json(token, now=now),
        "user_id": str(token.user_id),
        "end_reason": None if token.end_reason is None else token.end_reason.value,
    }
