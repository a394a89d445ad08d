"""SQL of what superusers do with accounts."""

from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from zenzefi.accounts.models import User
from zenzefi.infra.db import Connection

_SELECT_USER: Final = """
    SELECT id, email, username, full_name, is_active, is_superuser, referral_code, created_at, updated_at
    FROM users
"""
# Keys are ASCII: whatever begins with a prefix lies from the prefix up to the prefix and the byte above all ASCII.
_ABOVE_ASCII: Final = "\x7f"
# The operators of the indices of class text_pattern_ops: bytes are compared. Materialized, since a plan made for any
# prefix would else walk the users by id hoping to meet enough of them early, and read everybody for a rare name.
_WITH_FOUND: Final = """
    WITH found AS MATERIALIZED (
        SELECT id, email, username, full_name, is_active, is_superuser, referral_code, created_at, updated_at
        FROM users
        WHERE (email ~>=~ $3 AND email ~<~ $4) OR (lower(username) ~>=~ $3 AND lower(username) ~<~ $4)
    )
    SELECT id, email, username, full_name, is_active, is_superuser, referral_code, created_at, updated_at
    FROM found
"""
# Written out and no argument, so that the partial index of the banned serves any plan.
_HAS_STATE: Final = {None: "", True: " AND is_active", False: " AND NOT is_active"}


async def select_users(
    conn: Connection, *, prefix: str | None, is_active: bool | None, before: UUID, limit: int
) -> list[User]:
    """The newest users with an id below `before`: all, or those whose address or name begins with `prefix`."""
    select = _SELECT_USER
    arguments: tuple[object, ...] = (before, limit)
    if prefix is not None:
        select, arguments = _WITH_FOUND, (before, limit, prefix, prefix + _ABOVE_ASCII)
    rows = await conn.fetch(select + "WHERE id < $1" + _HAS_STATE[is_active] + " ORDER BY id DESC LIMIT $2", *arguments)
    return [User(**dict(row)) for row in rows]


async def find_user(conn: Connection, *, user_id: UUID) -> User | None:
    """A user by id."""
    return _user_or_none(await conn.fetchrow(_SELECT_USER + "WHERE id = $1", user_id))


async def find_user_by_name(conn: Connection, *, name: str) -> User | None:
    """A user by e-mail address or username, in lower case; an address has an @ and a username has none."""
    return _user_or_none(await conn.fetchrow(_SELECT_USER + "WHERE email = $1 OR lower(username) = $1", name))


async def lock_users(conn: Connection, *, user_ids: set[UUID]) -> dict[UUID, User]:
    """Users by id, locked in the order of their ids until the transaction ends, against changes and new logins."""
    rows = await conn.fetch(_SELECT_USER + "WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE", sorted(user_ids))
    return {row["id"]: User(**dict(row)) for row in rows}


async def update_flags(conn: Connection, *, user_id: UUID, is_active: bool, is_superuser: bool, now: datetime) -> User:
    """Set both flags of a locked user."""
    row = await conn.fetchrow(
        """
        UPDATE users SET is_active = $2, is_superuser = $3, updated_at = $4
        WHERE id = $1
        RETURNING id, email, username, full_name, is_active, is_superuser, referral_code, created_at, updated_at
        """,
        user_id,
        is_active,
        is_superuser,
        now,
    )
    assert row is not None, "users are never deleted"
    return User(**dict(row))


async def end_logins(conn: Connection, *, user_id: UUID, now: datetime) -> list[UUID]:
    """End all logins of a user; those that it ended."""
    rows = await conn.fetch(
        """
        WITH open_ones AS MATERIALIZED (
            SELECT id FROM logins WHERE user_id = $1 AND ended_at IS NULL ORDER BY id FOR NO KEY UPDATE
        )
        UPDATE logins SET ended_at = $2
        FROM open_ones
        WHERE logins.id = open_ones.id
        RETURNING logins.id
        """,
        user_id,
        now,
    )
    return [row["id"] for row in rows]


def _user_or_none(row: asyncpg.Record | None) -> User | None:
    return None if row is None else User(**dict(row))
