"""Telling people that a token of theirs ends soon, once for each token."""

from datetime import timedelta
from typing import Final

from zenzefi.access import expiry_queries
from zenzefi.access.expiry_queries import ExpiringToken
from zenzefi.context import Context
from zenzefi.infra.db import Connection
from zenzefi.mail import service as mail
from zenzefi.mail.models import MailKind
from zenzefi.mail.rendering import format_instant

# One short transaction each, so that no lock of the sweep holds a rotation or a revocation up noticeably.
BATCH: Final = 100


async def announce_expiring_tokens(ctx: Context) -> int:
    """Write a mail for each activated token that ends within the notice; the count. Safe beside others doing the same.

    Nothing is marked while there is no mail server.
    """
    if not mail.is_on(ctx):
        return 0
    announced = 0
    for duration_hours in ctx.settings.token_prices:
        batch = BATCH
        while batch == BATCH:
            async with ctx.transaction() as conn:
                batch = await _announce(conn, ctx=ctx, duration_hours=duration_hours)
            announced += batch
    return announced


def notice_of(duration_hours: int, *, at_most_h: int) -> timedelta:
    """How long before its end a token is announced: never before half of its time is over."""
    return min(timedelta(hours=at_most_h), timedelta(hours=duration_hours) / 2)


async def _announce(conn: Connection, *, ctx: Context, duration_hours: int) -> int:
    now = ctx.now()
    until = now + notice_of(duration_hours, at_most_h=ctx.settings.mail.expiry_notice_h)
    tokens = await expiry_queries.mark_expiring(conn, duration_hours=duration_hours, now=now, until=until, limit=BATCH)
    for token in tokens:
        await _tell(conn, ctx=ctx, token=token)
    return len(tokens)


async def _tell(conn: Connection, *, ctx: Context, token: ExpiringToken) -> None:
    await mail.queue(
        conn,
        ctx=ctx,
        user_id=token.user_id,
        kind=MailKind.TOKEN_EXPIRING,
        event_id=token.token_id,
        details={
            "token_hint": token.token_hint,
            "duration_hours": str(token.duration_hours),
            "scope": token.scope,
            "expires_at": format_instant(token.expires_at),
        },
        useful_until=token.expires_at,
    )
