"""SQL of the idempotency keys."""

from dataclasses import dataclass
from datetime import datetime
from typing import cast
from uuid import UUID

from zenzefi.infra.db import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """The answer of a request that is over."""

    request_hash: bytes
    response_status: int
    sealed_response: bytes
    created_at: datetime


async def try_lock(conn: Connection, *, lock_id: int) -> bool:
    """Take an advisory lock until the transaction ends; False when another transaction has it."""
    return cast(bool, await conn.fetchval("SELECT pg_try_advisory_xact_lock($1)", lock_id))


async def find_answer(conn: Connection, *, user_id: UUID, key_hash: bytes) -> StoredAnswer | None:
    """The stored answer of a user's key."""
    row = await conn.fetchrow(
        """
        SELECT request_hash, response_status, sealed_response, created_at
        FROM idempotency_keys
        WHERE user_id = $1 AND key_hash = $2
        """,
        user_id,
        key_hash,
    )
    return None if row is None else StoredAnswer(**row)


async def insert_answer(conn: Connection, *, user_id: UUID, key_hash: bytes, answer: StoredAnswer) -> None:
    """Store the answer of a user's key, which has none."""
    await conn.execute(
        """
        INSERT INTO idempotency_keys (user_id, key_hash, request_hash, response_status, sealed_response, created_at)
        VALUES ($1, $2, $3, $4, $5, $6)
        """,
        user_id,
        key_hash,
        answer.request_hash,
        answer.response_status,
        answer.sealed_response,
        answer.created_at,
    )


async def delete_answer(conn: Connection, *, user_id: UUID, key_hash: bytes) -> None:
    """Forget the answer of a user's key."""
    await conn.execute("DELETE FROM idempotency_keys WHERE user_id = $1 AND key_hash = $2", user_id, key_hash)


async def delete_answers_before(conn: Connection, *, created_before: datetime, limit: int) -> int:
    """Delete up to `limit` of the oldest answers made before an instant; returns how many."""
    status = await conn.execute(
        """
        DELETE FROM idempotency_keys AS answer
        USING (
            SELECT user_id, key_hash
            FROM idempotency_keys
            WHERE created_at < $1
            ORDER BY created_at
            LIMIT $2
        ) AS old
        WHERE answer.user_id = old.user_id AND answer.key_hash = old.key_hash
        """,
        created_before,
        limit,
    )
    return int(status.removeprefix("DELETE "))
