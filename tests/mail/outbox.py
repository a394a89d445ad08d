"""What the tests of mail do with the outbox."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg

from tests.wallet.ledger import insert_user
from zenzefi.context import Context
from zenzefi.infra.db import Connection
from zenzefi.mail import service
from zenzefi.mail.models import MailKind


async def write_step(ctx: Context, conn: Connection, user_id: UUID, event_id: UUID) -> None:
    """A mail in a transaction."""
    await service.queue(
        conn,
        ctx=ctx,
        user_id=user_id,
        kind=MailKind.PASSWORD_CHANGED,
        event_id=event_id,
        details={"changed_at": "2026-01-01 00:00 UTC"},
    )


async def write(ctx: Context, *, user_id: UUID | None = None, event_id: UUID | None = None) -> UUID:
    """A mail to somebody new unless told otherwise; the event that it tells of."""
    event_id = event_id or ctx.new_id()
    user_id = user_id or await insert_user(ctx)
    async with ctx.transaction() as conn:
        await write_step(ctx, conn, user_id, event_id)
    return event_id


def on_port(ctx: Context, port: int) -> Context:
    """The same installation with its mail server on another port."""
    mail = replace(ctx.settings.mail, port=port)
    return replace(ctx, settings=replace(ctx.settings, mail=mail))


async def rows(ctx: Context) -> list[asyncpg.Record]:
    """The outbox, the oldest first."""
    async with ctx.connection() as conn:
        return await conn.fetch("SELECT * FROM mails ORDER BY id")


async def states(ctx: Context) -> list[str]:
    """Where each mail stands, the oldest first."""
    return [row["state"] for row in await rows(ctx)]


async def pass_time(ctx: Context, span: timedelta) -> None:
    """Let everything in the outbox be due so much earlier."""
    async with ctx.transaction() as conn:
        await conn.execute("UPDATE mails SET due_at = due_at - $1::interval", span)
