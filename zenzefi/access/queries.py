"""SQL of access tokens."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from zenzefi.access.errors import TokenNotFound
from zenzefi.access.models import AccessToken, EndReason, TokenGrant
from zenzefi.infra.db import Connection

_COLUMNS: Final = """
    id, user_id, token_hash, token_hint, duration_hours, scope, price, created_at, activated_at, expires_at,
    ended_at, end_reason, device_released_at
"""
_SELECT_TOKEN: Final = "SELECT" + _COLUMNS + "FROM access_tokens "
_GRANT_COLUMNS: Final = """
    token.id, token.user_id, token.token_hash, token.duration_hours, token.scope, token.activated_at, token.expires_at
"""
# What makes a token usable at the instant $2, its owner included.
_SELECT_GRANT: Final = (
    "SELECT"
    + _GRANT_COLUMNS
    + """
    FROM access_tokens AS token INNER JOIN users ON users.id = token.user_id
    WHERE token.ended_at IS NULL AND (token.expires_at IS NULL OR token.expires_at > $2) AND users.is_active AND
    """
)
_UPDATE_ACTIVATED: Final = (
    """
    UPDATE access_tokens AS token
    SET activated_at = $2, expires_at = $2::timestamptz + token.duration_hours * interval '1 hour'
    FROM users
    WHERE token.id = $1 AND token.activated_at IS NULL AND token.ended_at IS NULL
        AND users.id = token.user_id AND users.is_active
    RETURNING
    """  # noqa: S608  only constants meet here
    + _GRANT_COLUMNS
)
_UPDATE_HASH: Final = (
    "UPDATE access_tokens SET token_hash = $2, token_hint = $3, rotated_at = $4 WHERE id = $1 RETURNING"  # noqa: S608
    + _COLUMNS
)
# A subquery keeps the length of a page from the planner: where it expects fewer rows than that, it would read and sort
# all that there are, and how many of a user's tokens are open it can only guess.
_PAGE_OF: Final = " ORDER BY id DESC LIMIT (SELECT {}::bigint)"
# Greater than every UUID of version 7: the place before the first page.
_LAST_UUID: Final = UUID("ffffffff-ffff-ffff-ffff-ffffffffffff")


async def insert_tokens(conn: Connection, *, tokens: Sequence[AccessToken], purchase_transaction_id: UUID) -> None:
    """Store tokens for which one ledger transaction pays, which exists by COMMIT; they have neither clock nor end."""
    await conn.executemany(
        """
        INSERT INTO access_tokens
            (id, user_id, token_hash, token_hint, duration_hours, scope, price, purchase_transaction_id, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        """,
        [
            (
                token.token_id,
                token.user_id,
                token.token_hash,
                token.token_hint,
                token.duration_hours,
                token.scope,
                token.price,
                purchase_transaction_id,
                token.created_at,
            )
            for token in tokens
        ],
    )


async def get_token(conn: Connection, *, token_id: UUID, user_id: UUID) -> AccessToken:
    """One token of this user.

    Raises:
        TokenNotFound: there is none, or it is another user's.
    """
    return _token_or_not_found(await conn.fetchrow(_SELECT_TOKEN + "WHERE id = $1 AND user_id = $2", token_id, user_id))


async def lock_token(conn: Connection, *, token_id: UUID, user_id: UUID) -> AccessToken:
    """One token of this user, locked until the end of the transaction: whatever races it, waits.

    Raises:
        TokenNotFound: there is none, or it is another user's.
    """
    return _token_or_not_found(
        await conn.fetchrow(_SELECT_TOKEN + "WHERE id = $1 AND user_id = $2 FOR NO KEY UPDATE", token_id, user_id)
    )


async def lock_token_of_anybody(conn: Connection, *, token_id: UUID) -> AccessToken:
    """As ``lock_token``, whoever owns it.

    Raises:
        TokenNotFound: there is none.
    """
    return _token_or_not_found(await conn.fetchrow(_SELECT_TOKEN + "WHERE id = $1 FOR NO KEY UPDATE", token_id))


async def find_token(conn: Connection, *, token_id: UUID | None, token_hash: bytes | None) -> AccessToken | None:
    """The token, whoever owns it, by its id or by the hash of its string."""
    row = await conn.fetchrow(_SELECT_TOKEN + "WHERE id = $1 OR token_hash = $2", token_id, token_hash)
    return None if row is None else _token(row)


async def select_tokens_of_anybody(
    conn: Connection, *, user_id: UUID | None, open_only: bool, before: UUID | None, limit: int, now: datetime
) -> list[AccessToken]:
    """Tokens of one user or of all, the newest first, from those whose id is below `before`."""
    # Put together by what is asked for, so that each form is served by an index of its own.
    conditions = ["id < $1"]
    arguments: list[object] = [before or _LAST_UUID, limit]
    if user_id is not None:
        arguments.append(user_id)
        conditions.append(f"user_id = ${len(arguments)}")
    if open_only:
        arguments.append(now)
        conditions.append(f"ended_at IS NULL AND (expires_at IS NULL OR expires_at > ${len(arguments)})")
    rows = await conn.fetch(_SELECT_TOKEN + "WHERE " + " AND ".join(conditions) + _PAGE_OF.format("$2"), *arguments)
    return [_token(row) for row in rows]


async def select_open_hashes(conn: Connection, *, user_id: UUID) -> list[bytes]:
    """The hashes of all tokens of a user that have not ended."""
    rows = await conn.fetch("SELECT token_hash FROM access_tokens WHERE user_id = $1 AND ended_at IS NULL", user_id)
    return [row["token_hash"] for row in rows]


async def select_tokens(conn: Connection, *, user_id: UUID, before: UUID | None, limit: int) -> list[AccessToken]:
    """The user's tokens, the newest first, from those whose id is below `before`."""
    rows = await conn.fetch(
        _SELECT_TOKEN + "WHERE user_id = $1 AND id < $2" + _PAGE_OF.format("$3"),
        user_id,
        before or _LAST_UUID,
        limit,
    )
    return [_token(row) for row in rows]


async def select_open_tokens(
    conn: Connection, *, user_id: UUID, before: UUID | None, limit: int, now: datetime
) -> list[AccessToken]:
    """As ``select_tokens``, of tokens that are neither ended nor expired."""
    rows = await conn.fetch(
        _SELECT_TOKEN
        + "WHERE user_id = $1 AND id < $2 AND ended_at IS NULL AND (expires_at IS NULL OR expires_at > $4)"
        + _PAGE_OF.format("$3"),
        user_id,
        before or _LAST_UUID,
        limit,
        now,
    )
    return [_token(row) for row in rows]


async def find_grant_by_hash(conn: Connection, *, token_hash: bytes, now: datetime) -> TokenGrant | None:
    """The grant of a usable token whose owner's account is open."""
    return _grant_or_none(await conn.fetchrow(_SELECT_GRANT + "token.token_hash = $1", token_hash, now))


async def select_grants_by_hash(conn: Connection, *, token_hashes: Sequence[bytes], now: datetime) -> list[TokenGrant]:
    """The grants of those of the tokens that are usable, in no order."""
    rows = await conn.fetch(_SELECT_GRANT + "token.token_hash = ANY($1::bytea[])", token_hashes, now)
    return [grant for row in rows if (grant := _grant_or_none(row)) is not None]


async def find_grant_by_id(conn: Connection, *, token_id: UUID, now: datetime) -> TokenGrant | None:
    """As ``find_grant_by_hash``, by the token's id."""
    return _grant_or_none(await conn.fetchrow(_SELECT_GRANT + "token.id = $1", token_id, now))


async def find_token_hash(conn: Connection, *, token_id: UUID) -> bytes | None:
    """The hash of a token, usable or not."""
    token_hash: bytes | None = await conn.fetchval("SELECT token_hash FROM access_tokens WHERE id = $1", token_id)
    return token_hash


async def update_activated(conn: Connection, *, token_id: UUID, now: datetime) -> TokenGrant | None:
    """Start the clock of a token that has none and has not ended; None when it has, or the owner is banned.

    One statement: of any number of racing activations and refunds the row's lock lets exactly one through, and the
    others see what it wrote.
    """
    return _grant_or_none(await conn.fetchrow(_UPDATE_ACTIVATED, token_id, now))


async def update_refunded(conn: Connection, *, token_id: UUID, refund_transaction_id: UUID, now: datetime) -> None:
    """End a locked token that was never activated."""
    await conn.execute(
        """
        UPDATE access_tokens SET ended_at = $3, end_reason = 'refunded', refund_transaction_id = $2 WHERE id = $1
        """,
        token_id,
        refund_transaction_id,
        now,
    )


async def update_revoked(conn: Connection, *, token_id: UUID, now: datetime) -> None:
    """End a locked token that has not ended, without giving anything back."""
    await conn.execute("UPDATE access_tokens SET ended_at = $2, end_reason = 'revoked' WHERE id = $1", token_id, now)


async def update_hash(
    conn: Connection, *, token_id: UUID, token_hash: bytes, token_hint: str, now: datetime
) -> AccessToken:
    """Give a locked token a new string; the token as it now is."""
    return _token_or_not_found(await conn.fetchrow(_UPDATE_HASH, token_id, token_hash, token_hint, now))


async def update_device_released(conn: Connection, *, token_id: UUID, now: datetime) -> None:
    """Note when the device of a locked token was released on request."""
    await conn.execute("UPDATE access_tokens SET device_released_at = $2 WHERE id = $1", token_id, now)


async def delete_device_lease(conn: Connection, *, token_id: UUID) -> None:
    """Forget which device held the token while Redis was away (Redis keeps its own lease)."""
    await conn.execute("DELETE FROM device_leases WHERE token_id = $1", token_id)


async def update_expired(conn: Connection, *, now: datetime, limit: int) -> int:
    """End up to `limit` tokens whose time is over, as of that time; those that others hold locked are left alone."""
    status = await conn.execute(
        """
        WITH due AS (
            SELECT id FROM access_tokens
            WHERE ended_at IS NULL AND expires_at <= $1
            ORDER BY expires_at LIMIT $2
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE access_tokens AS token SET ended_at = token.expires_at, end_reason = 'expired'
        FROM due WHERE token.id = due.id
        """,
        now,
        limit,
    )
    return int(status.rpartition(" ")[2])


def _token_or_not_found(row: asyncpg.Record | None) -> AccessToken:
    if row is None:
        raise TokenNotFound
    return _token(row)


def _token(row: asyncpg.Record) -> AccessToken:
    return AccessToken(
        token_id=row["id"],
        user_id=row["user_id"],
        token_hash=row["token_hash"],
        token_hint=row["token_hint"],
        duration_hours=row["duration_hours"],
        scope=row["scope"],
        price=row["price"],
        created_at=row["created_at"],
        activated_at=row["activated_at"],
        expires_at=row["expires_at"],
        ended_at=row["ended_at"],
        end_reason=None if row["end_reason"] is None else EndReason(row["end_reason"]),
        device_released_at=row["device_released_at"],
    )


def _grant_or_none(row: asyncpg.Record | None) -> TokenGrant | None:
    if row is None:
        return None
    return TokenGrant(
        token_id=row["id"],
        user_id=row["user_id"],
        token_hash=row["token_hash"],
        duration_hours=row["duration_hours"],
        scope=row["scope"],
        activated_at=row["activated_at"],
        expires_at=row["expires_at"],
    )
