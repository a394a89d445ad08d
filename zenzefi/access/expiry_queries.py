"""SQL of telling people that their tokens end soon."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from zenzefi.infra.db import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiringToken:
    """What is told of a token that ends soon."""

    token_id: UUID
    user_id: UUID
    token_hint: str
    duration_hours: int
    scope: str
    expires_at: datetime


async def mark_expiring(
    conn: Connection, *, duration_hours: int, now: datetime, until: datetime, limit: int
) -> list[ExpiringToken]:
    """Mark tokens of one duration that end until then as announced, and hand them over, each to one caller ever.

    Those that others hold locked are left for the next time.
    """
    # An array, not a join: where the planner expects many, it would read the whole table to join with it.
    rows = await conn.fetch(
        """
        UPDATE access_tokens SET expiry_announced_at = $2
        WHERE id = ANY (ARRAY(
            SELECT id FROM access_tokens
            WHERE ended_at IS NULL AND expiry_announced_at IS NULL
                AND duration_hours = $1 AND expires_at > $2 AND expires_at <= $3
            ORDER BY expires_at LIMIT $4
            FOR NO KEY UPDATE SKIP LOCKED
        ))
        RETURNING id AS token_id, user_id, token_hint, duration_hours, scope, expires_at
        """,
        duration_hours,
        now,
        until,
        limit,
    )
    return [ExpiringToken(**row) for row in rows]
