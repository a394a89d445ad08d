"""What this slice hands around: users, their credentials, and the tokens of a login."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person with an account, without the password's hash: that never leaves this slice."""

    id: UUID
    email: str = field(repr=False)
    username: str
    full_name: str | None = field(repr=False)
    is_active: bool
    is_superuser: bool
    referral_code: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a password is checked against."""

    user_id: UUID
    email: str = field(repr=False)
    username: str
    password_hash: str = field(repr=False)
    is_active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshToken:
    """A stored refresh token, by its hash."""

    login_id: UUID
    expires_at: datetime
    used_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPair:
    """What a login is used with: a JWT for the API's requests, and a refresh token for the next pair."""

    access_token: str = field(repr=False)
    expires_in_s: int
    refresh_token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserChanges:
    """What a user changes of themselves; a field that is None stays as it is, an empty full name removes it."""

    full_name: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    current_password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordChange:
    """The hash that the current password was checked against, and the one to put in its place."""

    old_hash: str = field(repr=False)
    new_hash: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferralTotals:
    """A user's referral code and what came of it; a purchase that was refunded qualifies nobody."""

    referral_code: str
    referrals: int
    qualifying: int
    earned: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferredUser:
    """Somebody whom a user brought, as that user may see them."""

    user_id: UUID
    username: str
    created_at: datetime
    qualified: bool
