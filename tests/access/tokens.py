"""What the tests of access tokens share: tokens bought without HTTP, and rows as the database has them."""

from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import asyncpg

from tests.wallet.ledger import credit, insert_user
from zenzefi.access import service
from zenzefi.access.models import IssuedToken
from zenzefi.audit.models import Actor, ActorKind
from zenzefi.context import Context


def owner(user_id: UUID) -> Actor:
    """The user as an actor."""
    return Actor(kind=ActorKind.USER, user_id=user_id)


async def issue_token(
    ctx: Context, *, user_id: UUID | None = None, duration_hours: int = 1, scope: str = "full"
) -> IssuedToken:
    """A token that was just bought, by somebody new unless told otherwise."""
    if user_id is None:
        user_id = await insert_user(ctx)
    await credit(ctx, user_id, Decimal("300.00"))
    async with ctx.transaction() as conn:
        return await service.purchase(
            conn, ctx=ctx, actor=owner(user_id), user_id=user_id, duration_hours=duration_hours, scope=scope
        )


async def expire(ctx: Context, token_id: UUID) -> None:
    """Let the time of an activated token be over since a minute."""
    async with ctx.transaction() as conn:
        await conn.execute(
            """
            UPDATE access_tokens
            SET expires_at = $2, activated_at = $2::timestamptz - duration_hours * interval '1 hour'
            WHERE id = $1
            """,
            token_id,
            ctx.now() - timedelta(minutes=1),
        )


async def token_row(ctx: Context, token_id: UUID | str) -> asyncpg.Record:
    """A token as the database has it."""
    async with ctx.connection() as conn:
        row = await conn.fetchrow("SELECT * FROM access_tokens WHERE id = $1", token_id)
    assert row is not None
    return row


async def audit_rows(ctx: Context, token_id: UUID | str, action: str) -> list[asyncpg.Record]:
    """What the audit log says about one action on a token."""
    async with ctx.connection() as conn:
        return await conn.fetch(
            "SELECT * FROM audit_log WHERE resource_type = 'access_token' AND resource_id = $1 AND action = $2",
            str(token_id),
            action,
        )
