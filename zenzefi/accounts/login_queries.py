"""SQL of logins and refresh tokens."""

from collections.abc import Sequence
from datetime import datetime
from typing import cast
from uuid import UUID

from zenzefi.accounts.models import RefreshToken
from zenzefi.infra.db import Connection


async def insert_login(
    conn: Connection,
    *,
    login_id: UUID,
    user_id: UUID,
    ip: str | None,
    user_agent: str | None,
    now: datetime,
) -> None:
    """Open a login."""
    await conn.execute(
        "INSERT INTO logins (id, user_id, ip, user_agent, created_at) VALUES ($1, $2, $3, $4, $5)",
        login_id,
        user_id,
        ip,
        user_agent,
        now,
    )


async def find_open_login(conn: Connection, *, login_id: UUID) -> tuple[UUID, bool] | None:
    """The user of a login that has not ended, and whether they are a superuser; None when they are banned."""
    row = await conn.fetchrow(
        """
        SELECT users.id, users.is_superuser
        FROM logins
        JOIN users ON users.id = logins.user_id
        WHERE logins.id = $1 AND logins.ended_at IS NULL AND users.is_active
        """,
        login_id,
    )
    return None if row is None else (row["id"], row["is_superuser"])


async def end_login(conn: Connection, *, login_id: UUID, now: datetime) -> UUID | None:
    """End a login; its user, or None when it had ended before."""
    return cast(
        UUID | None,
        await conn.fetchval(
            "UPDATE logins SET ended_at = $2 WHERE id = $1 AND ended_at IS NULL RETURNING user_id",
            login_id,
            now,
        ),
    )


async def end_other_logins(conn: Connection, *, user_id: UUID, kept_login_id: UUID, now: datetime) -> list[UUID]:
    """End all logins of a user but one; those that it ended."""
    rows = await conn.fetch(
        """
        WITH others AS MATERIALIZED (
            SELECT id FROM logins
            WHERE user_id = $1 AND id <> $2 AND ended_at IS NULL
            ORDER BY id
            FOR NO KEY UPDATE
        )
        UPDATE logins SET ended_at = $3
        FROM others
        WHERE logins.id = others.id
        RETURNING logins.id
        """,
        user_id,
        kept_login_id,
        now,
    )
    return [row["id"] for row in rows]


async def insert_refresh_token(
    conn: Connection, *, token_hash: bytes, login_id: UUID, now: datetime, expires_at: datetime
) -> None:
    """Store a refresh token by its hash."""
    await conn.execute(
        "INSERT INTO refresh_tokens (token_hash, login_id, created_at, expires_at) VALUES ($1, $2, $3, $4)",
        token_hash,
        login_id,
        now,
        expires_at,
    )


async def lock_refresh_token(conn: Connection, *, token_hash: bytes) -> RefreshToken | None:
    """A refresh token, locked against a second use until the transaction ends."""
    row = await conn.fetchrow(
        "SELECT login_id, expires_at, used_at FROM refresh_tokens WHERE token_hash = $1 FOR UPDATE",
        token_hash,
    )
    return None if row is None else RefreshToken(**dict(row))


async def mark_refresh_token_used(conn: Connection, *, token_hash: bytes, now: datetime) -> None:
    """Spend a refresh token."""
    await conn.execute("UPDATE refresh_tokens SET used_at = $2 WHERE token_hash = $1", token_hash, now)


async def delete_expired_refresh_tokens(conn: Connection, *, expired_before: datetime, limit: int) -> list[UUID]:
    """Delete at most ``limit`` refresh tokens; the login of each."""
    # An array, since a join is planned as a scan of the whole table once the plan is made for any limit.
    rows = await conn.fetch(
        """
        DELETE FROM refresh_tokens
        WHERE token_hash = ANY(ARRAY(
            SELECT token_hash FROM refresh_tokens
            WHERE expires_at < $1
            ORDER BY expires_at
            LIMIT $2
            FOR UPDATE SKIP LOCKED
        ))
        RETURNING login_id
        """,
        expired_before,
        limit,
    )
    return [row["login_id"] for row in rows]


async def lock_logins(conn: Connection, *, login_ids: Sequence[UUID]) -> None:
    """Lock logins in id order, so that of two who delete their last tokens the later one sees both deletions."""
    await conn.execute("SELECT id FROM logins WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE", login_ids)


async def delete_spent_logins(conn: Connection, *, login_ids: Sequence[UUID]) -> int:
    """Delete those of the logins that no refresh token is left of; their number."""
    status = await conn.execute(
        """
        DELETE FROM logins
        WHERE id = ANY($1::uuid[])
            AND NOT EXISTS (SELECT FROM refresh_tokens WHERE refresh_tokens.login_id = logins.id)
        """,
        login_ids,
    )
    return int(status.removeprefix("DELETE "))
