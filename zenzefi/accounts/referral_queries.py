"""SQL of who brought whom, and what came of it."""

from uuid import UUID

from zenzefi.accounts.models import ReferralTotals, ReferredUser
from zenzefi.infra.db import Connection


async def get_totals(conn: Connection, *, user_id: UUID) -> ReferralTotals:
    """A user's code, and the totals of what they brought."""
    row = await conn.fetchrow(
        """
        SELECT
            users.referral_code,
            (SELECT count(*) FROM users AS referred WHERE referred.referred_by = users.id) AS referrals,
            count(bonus.state) FILTER (WHERE bonus.state <> 'taken_back') AS qualifying,
            coalesce(sum(bonus.amount) FILTER (WHERE bonus.state = 'paid'), 0.00) AS earned
        FROM users
        LEFT JOIN referral_bonuses AS bonus ON bonus.referrer_id = users.id
        WHERE users.id = $1
        GROUP BY users.id
        """,
        user_id,
    )
    assert row is not None, "users are never deleted"
    return ReferralTotals(**row)


async def select_referred_users(conn: Connection, *, user_id: UUID, before: UUID, limit: int) -> list[ReferredUser]:
    """Whom a user brought, the newest first, from those whose id is below `before`."""
    rows = await conn.fetch(
        """
        SELECT
            users.id AS user_id, users.username, users.created_at,
            coalesce(bonus.state <> 'taken_back', false) AS qualified
        FROM users
        LEFT JOIN referral_bonuses AS bonus ON bonus.referred_user_id = users.id
        WHERE users.referred_by = $1 AND users.id < $2
        ORDER BY users.id DESC
        LIMIT $3
        """,
        user_id,
        before,
        limit,
    )
    return [ReferredUser(**row) for row in rows]
