"""SQL of users."""

from datetime import datetime
from typing import cast
from uuid import UUID

import asyncpg

from zenzefi.accounts.errors import EmailTaken, UsernameTaken
from zenzefi.accounts.models import Credentials, User
from zenzefi.infra.db import Connection

_TAKEN = {"users_email_key": EmailTaken, "users_username_key": UsernameTaken}


async def insert_user(
    conn: Connection,
    *,
    user_id: UUID,
    email: str,
    username: str,
    password_hash: str,
    full_name: str | None,
    is_superuser: bool,
    referral_code: str,
    referred_by: UUID | None,
    now: datetime,
) -> User | None:
    """Insert a user; None when the referral code is somebody's already and another one must be drawn.

    Raises:
        EmailTaken, UsernameTaken: by another user; the transaction is lost.
    """
    try:
        row = await conn.fetchrow(
            """
            INSERT INTO users (id, email, username, password_hash, full_name, is_superuser,
                               referral_code, referred_by, created_at, updated_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
            ON CONFLICT ON CONSTRAINT users_referral_code_key DO NOTHING
            RETURNING id, email, username, full_name, is_active, is_superuser, referral_code, created_at, updated_at
            """,
            user_id,
            email,
            username,
            password_hash,
            full_name,
            is_superuser,
            referral_code,
            referred_by,
            now,
        )
    except asyncpg.UniqueViolationError as error:
        taken = _TAKEN.get(str(error.constraint_name))
        if taken is None:
            raise
        raise taken from None
    return None if row is None else User(**dict(row))


async def find_user(conn: Connection, *, user_id: UUID) -> User | None:
    """A user by id."""
    row = await conn.fetchrow(
        """
        SELECT id, email, username, full_name, is_active, is_superuser, referral_code, created_at, updated_at
        FROM users
        WHERE id = $1
        """,
        user_id,
    )
    return None if row is None else User(**dict(row))


async def find_user_by_email(conn: Connection, *, email: str) -> User | None:
    """A user by normalised email address."""
    row = await conn.fetchrow(
        """
        SELECT id, email, username, full_name, is_active, is_superuser, referral_code, created_at, updated_at
        FROM users
        WHERE email = $1
        """,
        email,
    )
    return None if row is None else User(**dict(row))


async def lock_active_user(conn: Connection, *, user_id: UUID) -> User | None:
    """A user who is not banned, locked until the transaction ends against changes and new logins."""
    row = await conn.fetchrow(
        """
        SELECT id, email, username, full_name, is_active, is_superuser, referral_code, created_at, updated_at
        FROM users
        WHERE id = $1 AND is_active
        FOR NO KEY UPDATE
        """,
        user_id,
    )
    return None if row is None else User(**dict(row))


async def find_referrer(conn: Connection, *, referral_code: str) -> UUID | None:
    """The user, not banned, whose code it is."""
    return cast(
        UUID | None,
        await conn.fetchval("SELECT id FROM users WHERE referral_code = $1 AND is_active", referral_code),
    )


async def find_credentials(conn: Connection, *, email: str) -> Credentials | None:
    """What to check a password against, by normalised email address."""
    row = await conn.fetchrow(
        "SELECT id AS user_id, email, username, password_hash, is_active FROM users WHERE email = $1",
        email,
    )
    return None if row is None else Credentials(**dict(row))


async def get_credentials(conn: Connection, *, user_id: UUID) -> Credentials:
    """What to check a password against, by user."""
    row = await conn.fetchrow(
        "SELECT id AS user_id, email, username, password_hash, is_active FROM users WHERE id = $1",
        user_id,
    )
    assert row is not None, "users are never deleted"
    return Credentials(**dict(row))


async def lock_credentials(conn: Connection, *, user_id: UUID) -> Credentials:
    """The credentials as they stand now, locked (shared) against a change until the transaction ends."""
    row = await conn.fetchrow(
        "SELECT id AS user_id, email, username, password_hash, is_active FROM users WHERE id = $1 FOR SHARE",
        user_id,
    )
    assert row is not None, "users are never deleted"
    return Credentials(**dict(row))


async def replace_password_hash(conn: Connection, *, user_id: UUID, old_hash: str, new_hash: str) -> None:
    """Put another hash of the same password in the place of an old one, where that still stands."""
    await conn.execute(
        "UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2",
        user_id,
        old_hash,
        new_hash,
    )


async def change_password_hash(
    conn: Connection, *, user_id: UUID, old_hash: str, new_hash: str, now: datetime
) -> User | None:
    """Put the hash of another password in the place of the one that was checked; None when that one stands no more."""
    row = await conn.fetchrow(
        """
        UPDATE users
        SET password_hash = $3, updated_at = $4
        WHERE id = $1 AND password_hash = $2
        RETURNING id, email, username, full_name, is_active, is_superuser, referral_code, created_at, updated_at
        """,
        user_id,
        old_hash,
        new_hash,
        now,
    )
    return None if row is None else User(**dict(row))


async def update_full_name(conn: Connection, *, user_id: UUID, full_name: str | None, now: datetime) -> User:
    """Set or remove the full name."""
    row = await conn.fetchrow(
        """
        UPDATE users
        SET full_name = $2, updated_at = $3
        WHERE id = $1
        RETURNING id, email, username, full_name, is_active, is_superuser, referral_code, created_at, updated_at
        """,
        user_id,
        full_name,
        now,
    )
    assert row is not None, "users are never deleted"
    return User(**dict(row))
