"""SQL of referral bonuses."""

from datetime import datetime
from decimal import Decimal
from typing import cast
from uuid import UUID

from zenzefi.access.models import BonusState, ReferralBonus
from zenzefi.infra.db import Connection


async def insert_bonus(
    conn: Connection, *, user_id: UUID, purchase_transaction_id: UUID, amount: Decimal, now: datetime
) -> UUID | None:
    """Hold a bonus for whoever brought this user, and return whom; None when nobody did, or there was one before."""
    return cast(
        UUID | None,
        await conn.fetchval(
            """
            INSERT INTO referral_bonuses
                (referred_user_id, referrer_id, purchase_transaction_id, amount, state, created_at)
            SELECT id, referred_by, $2, $3, 'held', $4 FROM users WHERE id = $1 AND referred_by IS NOT NULL
            ON CONFLICT (referred_user_id) DO NOTHING
            RETURNING referrer_id
            """,
            user_id,
            purchase_transaction_id,
            amount,
            now,
        ),
    )


async def lock_held_bonus(conn: Connection, *, token_id: UUID) -> ReferralBonus | None:
    """The bonus that is held for the purchase of this token, locked until the transaction ends."""
    row = await conn.fetchrow(
        """
        SELECT referred_user_id, referrer_id, purchase_transaction_id, amount
        FROM referral_bonuses
        WHERE purchase_transaction_id = (SELECT purchase_transaction_id FROM access_tokens WHERE id = $1)
            AND state = 'held'
        FOR UPDATE
        """,
        token_id,
    )
    return None if row is None else ReferralBonus(**row)


async def lock_due_bonus(conn: Connection, *, after: UUID) -> ReferralBonus | None:
    """The next held bonus, by the referred user, of a purchase of which nothing can be refunded any more; locked.

    Those whose receiver is banned, and those that somebody else has locked, are passed over.
    """
    row = await conn.fetchrow(
        """
        SELECT bonus.referred_user_id, bonus.referrer_id, bonus.purchase_transaction_id, bonus.amount
        FROM referral_bonuses AS bonus
        INNER JOIN users AS referrer ON referrer.id = bonus.referrer_id AND referrer.is_active
        WHERE bonus.state = 'held' AND bonus.referred_user_id > $1
            AND NOT EXISTS (
                SELECT FROM access_tokens AS token
                WHERE token.purchase_transaction_id = bonus.purchase_transaction_id
                    AND token.activated_at IS NULL AND token.ended_at IS NULL
            )
        ORDER BY bonus.referred_user_id
        LIMIT 1
        FOR UPDATE OF bonus SKIP LOCKED
        """,
        after,
    )
    return None if row is None else ReferralBonus(**row)


async def get_kept(conn: Connection, *, purchase_transaction_id: UUID) -> Decimal:
    """How much of a purchase was not refunded."""
    return cast(
        Decimal,
        await conn.fetchval(
            """
            SELECT coalesce(sum(price), 0.00) FROM access_tokens
            WHERE purchase_transaction_id = $1 AND end_reason IS DISTINCT FROM 'refunded'
            """,
            purchase_transaction_id,
        ),
    )


async def update_bonus(
    conn: Connection, *, bonus: ReferralBonus, amount: Decimal, state: BonusState, now: datetime
) -> None:
    """Set the amount and the state of a locked bonus."""
    await conn.execute(
        """
        UPDATE referral_bonuses
        SET amount = $2, state = $3, settled_at = CASE WHEN $3 <> 'held' THEN $4::timestamptz END
        WHERE referred_user_id = $1
        """,
        bonus.referred_user_id,
        amount,
        state.value,
        now,
    )
