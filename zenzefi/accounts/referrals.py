"""What a user's referral code has brought."""

from typing import Final
from uuid import UUID

from zenzefi.accounts import referral_queries
from zenzefi.accounts.models import ReferralTotals, ReferredUser
from zenzefi.context import Context

# Greater than every UUID of version 7: the place before the first page.
_LAST_UUID: Final = UUID("ffffffff-ffff-ffff-ffff-ffffffffffff")


async def look_at_referrals(
    ctx: Context, *, user_id: UUID, before: UUID | None, limit: int
) -> tuple[ReferralTotals, list[ReferredUser], UUID | None]:
    """A user's totals, and whom they brought: the newest, or those with an id below `before`.

    With them comes the `before` of the next page, or None when nothing follows.
    """
    rows = limit + 1  # the one more tells whether anything follows
    async with ctx.connection() as conn:
        totals = await referral_queries.get_totals(conn, user_id=user_id)
        users = await referral_queries.select_referred_users(
            conn, user_id=user_id, before=before or _LAST_UUID, limit=rows
        )
    page = users[:limit]
    return totals, page, page[-1].user_id if len(users) > limit else None


def link_of(ctx: Context, referral_code: str) -> str:
    """Where a registration with this code is sent to."""
    return f"{ctx.settings.backend_url}/api/v1/auth/register?ref={referral_code}"
