"""What the account routes take and give."""

from typing import Any

from marshmallow import Schema, fields, validate

from zenzefi.accounts import refresh_tokens
from zenzefi.accounts.rules import (
    EMAIL_MAX_LENGTH,
    FULL_NAME_MAX_LENGTH,
    PASSWORD_MAX_LENGTH,
    PASSWORD_MIN_LENGTH,
    USERNAME_MAX_LENGTH,
    USERNAME_MIN_LENGTH,
    USERNAME_PATTERN,
)
from zenzefi.web.fields import Flag, Money, Text, Timestamp

REFERRAL_CODE_MAX_LENGTH = 64  # more than any code: a longer text is answered like any unknown one up to here
WITHOUT_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f-\x9f]*$"


class Email(Text):
    """An email address without the blanks around it; the account rules check its form."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(min_length=1, max_length=EMAIL_MAX_LENGTH, metadata={"format": "email"}, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        return text.strip()


class FullName(Text):
    """A person's name without the blanks around it; null and the empty text both mean none."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            allow_none=True,
            max_length=FULL_NAME_MAX_LENGTH,
            validate=validate.Regexp(WITHOUT_CONTROL_CHARACTERS, error="Must not hold control characters."),
            **kwargs,
        )

    def deserialize(self, value: Any, attr: str | None = None, data: Any = None, **kwargs: Any) -> Any:
        """The text; an absent field stays absent."""
        return super().deserialize("" if value is None else value, attr, data, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        return text.strip()


class RegisterQuerySchema(Schema):
    """Who brought the new user."""

    ref = Text(max_length=REFERRAL_CODE_MAX_LENGTH, metadata={"description": "A referral code"})


class RegisterSchema(Schema):
    """A new account."""

    email = Email(required=True)
    username = Text(
        required=True,
        min_length=USERNAME_MIN_LENGTH,
        max_length=USERNAME_MAX_LENGTH,
        validate=validate.Regexp(
            USERNAME_PATTERN, error="Must be ASCII letters, digits and the characters _ . - only."
        ),
        metadata={"description": "Unique whatever the case of its letters"},
    )
    password = Text(
        required=True,
        min_length=PASSWORD_MIN_LENGTH,
        max_length=PASSWORD_MAX_LENGTH,
        metadata={"description": "Not a common one, nor the email address or the username"},
    )
    full_name = FullName()


class LoginSchema(Schema):
    """An email address and a password."""

    email = Email(required=True)
    password = Text(required=True, min_length=1, max_length=PASSWORD_MAX_LENGTH)


class RefreshTokenSchema(Schema):
    """A refresh token of a login."""

    refresh_token = Text(
        required=True, min_length=1, max_length=256, metadata={"example": "znr_" + "A" * (refresh_tokens.LENGTH - 4)}
    )


class TokenPairSchema(Schema):
    """The tokens of a login."""

    access_token = fields.String(required=True, metadata={"description": "A JWT for the Authorization header"})
    token_type = fields.Constant("bearer", required=True)
    expires_in = fields.Integer(required=True, metadata={"description": "Seconds that the access token is good for"})
    refresh_token = fields.String(required=True, metadata={"description": "For one use at /auth/refresh"})


class UserSchema(Schema):
    """A user, as they see themselves."""

    id = fields.UUID(required=True)
    email = fields.String(required=True)
    username = fields.String(required=True)
    full_name = fields.String(required=True, allow_none=True)
    is_active = Flag(required=True)
    is_superuser = Flag(required=True)
    referral_code = fields.String(required=True)
    created_at = Timestamp(required=True)
    updated_at = Timestamp(required=True)


class UpdateUserSchema(Schema):
    """What a user may change of themselves."""

    full_name = FullName(metadata={"description": "null or an empty text removes it"})
    password = Text(
        min_length=PASSWORD_MIN_LENGTH,
        max_length=PASSWORD_MAX_LENGTH,
        metadata={"description": "A new password; ends all other logins"},
    )
    current_password = Text(
        min_length=1, max_length=PASSWORD_MAX_LENGTH, metadata={"description": "Needed for a new password"}
    )


class ReferredUserSchema(Schema):
    """Somebody who registered with one's code."""

    username = fields.String(required=True)
    created_at = Timestamp(required=True)
    qualified = Flag(required=True, metadata={"description": "Has bought for more than 100 ZNC at once, and kept it"})


class ReferralsSchema(Schema):
    """What one's referral code has brought; the referred users come page by page, the newest first."""

    referral_code = fields.String(required=True)
    referral_link = fields.String(required=True)
    total_referrals = fields.Integer(required=True)
    qualifying_referrals = fields.Integer(required=True)
    total_bonus_earned = Money(required=True, metadata={"description": "ZNC that were paid out"})
    referred_users = fields.List(fields.Nested(ReferredUserSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)
