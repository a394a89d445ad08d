"""What may be done with a token in which state."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from zenzefi.access import lifecycle
from zenzefi.access.errors import DeviceReleaseTooSoon, TokenActivated, TokenEnded
from zenzefi.access.models import AccessToken, EndReason

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
FRESH = AccessToken(
    token_id=UUID(int=1),
    user_id=UUID(int=2),
    token_hash=bytes(32),
    token_hint="znz_AAAA",
    duration_hours=24,
    scope="full",
    price=Decimal("18.00"),
    created_at=NOW - timedelta(days=2),
    activated_at=None,
    expires_at=None,
    ended_at=None,
    end_reason=None,
    device_released_at=None,
)
ACTIVE = replace(FRESH, activated_at=NOW - timedelta(hours=23), expires_at=NOW + timedelta(hours=1))
REFUNDED = replace(FRESH, ended_at=NOW, end_reason=EndReason.REFUNDED)


@pytest.mark.parametrize("token", [FRESH, ACTIVE, replace(ACTIVE, expires_at=NOW + TICK)])
def test_unused_and_running_tokens_are_open(token: AccessToken) -> None:
    assert token.is_open(NOW)
    lifecycle.require_open(token, now=NOW)


@pytest.mark.parametrize(
    ("token", "detail"),
    [
        (replace(ACTIVE, expires_at=NOW), "The token has expired."),
        (replace(ACTIVE, ended_at=NOW - TICK, end_reason=EndReason.EXPIRED), "The token has expired."),
        (replace(ACTIVE, ended_at=NOW, end_reason=EndReason.REVOKED), "The token was revoked."),
        (REFUNDED, "The token was refunded."),
    ],
)
def test_ended_and_expired_tokens_are_not_open(token: AccessToken, detail: str) -> None:
    assert not token.is_open(NOW)
    with pytest.raises(TokenEnded) as refused:
        lifecycle.require_open(token, now=NOW)
    assert refused.value.detail == detail


def test_a_token_that_was_never_used_is_refundable_however_old() -> None:
    lifecycle.require_refundable(replace(FRESH, created_at=NOW - timedelta(days=3650)))


@pytest.mark.parametrize("token", [ACTIVE, replace(ACTIVE, ended_at=NOW, end_reason=EndReason.REVOKED)])
def test_an_activated_token_is_not_refundable(token: AccessToken) -> None:
    with pytest.raises(TokenActivated, match="2026-01-30 13:00:00"):
        lifecycle.require_refundable(token)


@pytest.mark.parametrize("reason", [EndReason.REFUNDED, EndReason.REVOKED])
def test_an_unused_token_that_ended_is_not_refundable_again(reason: EndReason) -> None:
    with pytest.raises(TokenEnded):
        lifecycle.require_refundable(replace(FRESH, ended_at=NOW, end_reason=reason))


@pytest.mark.parametrize("ago", [None, timedelta(hours=1), timedelta(days=1)])
def test_a_device_is_released_at_first_and_after_an_hour(ago: timedelta | None) -> None:
    released_at = None if ago is None else NOW - ago
    lifecycle.require_release_due(replace(ACTIVE, device_released_at=released_at), now=NOW)


@pytest.mark.parametrize(
    ("ago", "retry_after"),
    [
        (timedelta(0), "3600"),
        (timedelta(minutes=59, seconds=58, milliseconds=1), "2"),
        (timedelta(hours=1) - TICK, "1"),
    ],
)
def test_a_device_is_not_released_again_within_the_hour(ago: timedelta, retry_after: str) -> None:
    with pytest.raises(DeviceReleaseTooSoon) as refused:
        lifecycle.require_release_due(replace(ACTIVE, device_released_at=NOW - ago), now=NOW)
    assert refused.value.headers == {"Retry-After": retry_after}
    assert refused.value.extra == {"retry_after": int(retry_after)}
