"""What may be done with a token in which state: pure rules over its row."""

from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Final

from zenzefi.access.errors import DeviceReleaseTooSoon, TokenActivated, TokenEnded
from zenzefi.access.models import AccessToken, EndReason

# Moving to another device is rare; sharing one token by releasing it all the time is what this stops.
DEVICE_RELEASE_INTERVAL: Final = timedelta(hours=1)

_ENDED_HOW: Final = {
    EndReason.REFUNDED: "was refunded",
    EndReason.REVOKED: "was revoked",
    EndReason.EXPIRED: "has expired",
}


def require_open(token: AccessToken, *, now: datetime) -> None:
    """Do nothing for a token that is neither ended nor expired.

    Raises:
        TokenEnded: it is; the detail says how.
    """
    if not token.is_open(now):
        raise TokenEnded(f"The token {_ENDED_HOW[token.end_reason or EndReason.EXPIRED]}.")


def require_refundable(token: AccessToken) -> None:
    """Do nothing for a token that was never activated and has not ended.

    Raises:
        TokenActivated: its time began to run, and may be over.
        TokenEnded: it was refunded or revoked unused.
    """
    if token.activated_at is not None:
        since = token.activated_at.astimezone(UTC).isoformat(sep=" ", timespec="seconds")
        raise TokenActivated(f"Its time began to run at {since}; only a token that was never used is refunded.")
    if token.end_reason is not None:
        raise TokenEnded(f"The token {_ENDED_HOW[token.end_reason]}.")


def require_release_due(token: AccessToken, *, now: datetime) -> None:
    """Do nothing when the token's device was never released, or long enough ago.

    Raises:
        DeviceReleaseTooSoon: it was released less than DEVICE_RELEASE_INTERVAL ago.
    """
    if token.device_released_at is None:
        return
    wait = token.device_released_at + DEVICE_RELEASE_INTERVAL - now
    if wait > timedelta(0):
        raise DeviceReleaseTooSoon(retry_after_s=ceil(wait.total_seconds()))
