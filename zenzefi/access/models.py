"""The words of this slice: tokens, what the gateway knows of one, and what came of a purchase or a refund."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from zenzefi.errors import JsonObject


class EndReason(StrEnum):
    """Why a token can no longer be used."""

    REFUNDED = "refunded"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """A token as its owner may see it, plus the hash that other processes know it by. Never the string itself.

    `price` is what was paid, in ZNC. `expires_at` is set by the activation, `duration_hours` after it.
    """

    token_id: UUID
    user_id: UUID
    token_hash: bytes = field(repr=False)
    token_hint: str
    duration_hours: int
    scope: str
    price: Decimal
    created_at: datetime
    activated_at: datetime | None
    expires_at: datetime | None
    ended_at: datetime | None
    end_reason: EndReason | None
    device_released_at: datetime | None

    def is_open(self, now: datetime) -> bool:
        """Whether it is neither ended nor expired; an expired token is marked as ended only some time later."""
        return self.ended_at is None and (self.expires_at is None or self.expires_at > now)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """A token together with its string, which exists in this moment only."""

    token: AccessToken
    token_string: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGrant:
    """What the gateway needs to serve a token: found only for tokens that are usable."""

    token_id: UUID
    user_id: UUID
    token_hash: bytes = field(repr=False)
    duration_hours: int
    scope: str
    activated_at: datetime | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRefund:
    """What a refund gave back, and what the wallet then held, in ZNC."""

    amount: Decimal
    new_balance: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRevocation:
    """What came of a forced end: whose token it was, and what went back to their wallet, in ZNC."""

    token_id: UUID
    user_id: UUID
    refund_amount: Decimal


class BonusState(StrEnum):
    """What became of a referral bonus."""

    HELD = "held"
    PAID = "paid"
    TAKEN_BACK = "taken_back"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferralBonus:
    """A bonus that is held, in ZNC: for whose purchase, and for whom."""

    referred_user_id: UUID
    referrer_id: UUID
    purchase_transaction_id: UUID
    amount: Decimal


def terms_of(token: AccessToken) -> JsonObject:
    """What was bought, as the audit log says it."""
    return {
        "token_hint": token.token_hint,
        "duration_hours": token.duration_hours,
        "scope": token.scope,
        "price": f"{token.price:.2f}",
    }
