"""Sessions of use: what the owner of a token sees of the devices that used it."""

from datetime import timedelta
from typing import Final
from uuid import UUID

from zenzefi.access import service as access
from zenzefi.context import Context
from zenzefi.gateway import queries
from zenzefi.gateway.models import GatewaySession

SESSION_IDLE_S: Final = 300  # as long as the device lease lasts: a session ends when another device might take over
# Each batch is one short statement, so that no lock of the sweep holds the metering up noticeably.
CLOSE_BATCH: Final = 1_000
PURGE_BATCH: Final = 1_000


async def list_sessions(
    ctx: Context, *, user_id: UUID, token_id: UUID, before: UUID | None, limit: int
) -> tuple[list[GatewaySession], UUID | None]:
    """A page of the sessions of one's own token, the newest first, and the key of the page behind it.

    Raises:
        TokenNotFound: there is no such token, or it is another user's.
    """
    await access.get_token(ctx, user_id=user_id, token_id=token_id)
    async with ctx.connection() as conn:
        sessions = await queries.select_sessions(conn, token_id=token_id, before=before, limit=limit + 1)
    page = sessions[:limit]
    return page, page[-1].session_id if len(sessions) > limit else None


async def close_idle_sessions(ctx: Context) -> int:
    """Close the sessions that are over; how many there were. Idempotent, and safe beside others doing the same.

    A new use closes its own old session by itself; this is for those that nobody comes back to.
    """
    total = 0
    while True:
        async with ctx.connection() as conn:
            closed = await queries.update_idle_sessions(
                conn, idle_since=ctx.now() - timedelta(seconds=SESSION_IDLE_S), limit=CLOSE_BATCH
            )
        total += closed
        if closed < CLOSE_BATCH:
            return total


async def purge_sessions(ctx: Context) -> int:
    """Delete the sessions that ended more than SESSION_KEEP_DAYS ago; how many there were.

    Idempotent, and safe beside others doing the same; whatever a run leaves, the next one deletes.
    """
    ended_before = ctx.now() - timedelta(days=ctx.settings.retention.session_days)
    begun_before = UUID(int=int(ended_before.timestamp() * 1000) << 80)  # RFC 9562, section 5.7
    total = 0
    while True:
        async with ctx.connection() as conn:
            deleted = await queries.delete_ended_sessions(
                conn, ended_before=ended_before, begun_before=begun_before, limit=PURGE_BATCH
            )
        total += deleted
        if deleted < PURGE_BATCH:
            return total
