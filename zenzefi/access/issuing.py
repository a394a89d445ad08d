"""The making of a token, before it is stored."""

import secrets
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from zenzefi.access import token_format
from zenzefi.access.models import AccessToken, IssuedToken
from zenzefi.context import Context


def new_token_string() -> str:
    """A string that nobody has yet."""
    return token_format.mint(secrets.token_bytes(token_format.SECRET_BYTES))


def issue(
    ctx: Context, *, user_id: UUID, duration_hours: int, scope: str, price: Decimal, now: datetime
) -> IssuedToken:
    """A new token for which `price` (ZNC) is paid; its string is in the result and nowhere else."""
    token_string = new_token_string()
    token = AccessToken(
        token_id=ctx.new_id(),
        user_id=user_id,
        token_hash=token_format.hash_token(token_string),
        token_hint=token_format.hint_of(token_string),
        duration_hours=duration_hours,
        scope=scope,
        price=price,
        created_at=now,
        activated_at=None,
        expires_at=None,
        ended_at=None,
        end_reason=None,
        device_released_at=None,
    )
    return IssuedToken(token=token, token_string=token_string)
