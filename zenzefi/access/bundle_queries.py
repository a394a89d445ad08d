"""SQL of bundles."""

from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from zenzefi.access.bundle_models import Bundle, BundleTerms
from zenzefi.access.errors import BundleNameTaken, BundleNotFound
from zenzefi.infra.db import Connection

_COLUMNS: Final = "id, name, description, token_count, duration_hours, scope, discount_percent"
_SELECT_BUNDLE: Final = "SELECT " + _COLUMNS + " FROM bundles WHERE deleted_at IS NULL AND "  # noqa: S608  constants


async def select_bundles(conn: Connection, *, after: UUID, limit: int) -> list[Bundle]:
    """The bundles on offer, in the order in which they were made, from those whose id is above `after`."""
    rows = await conn.fetch(_SELECT_BUNDLE + "id > $1 ORDER BY id LIMIT $2", after, limit)
    return [_bundle(row) for row in rows]


async def get_bundle(conn: Connection, *, bundle_id: UUID) -> Bundle:
    """A bundle on offer.

    Raises:
        BundleNotFound: there is none, or it was deleted.
    """
    return _bundle_or_not_found(await conn.fetchrow(_SELECT_BUNDLE + "id = $1", bundle_id))


async def lock_bundle(conn: Connection, *, bundle_id: UUID) -> Bundle:
    """As ``get_bundle``, locked against changes until the transaction ends."""
    return _bundle_or_not_found(await conn.fetchrow(_SELECT_BUNDLE + "id = $1 FOR NO KEY UPDATE", bundle_id))


async def insert_bundle(conn: Connection, *, bundle: Bundle, now: datetime) -> None:
    """Offer a new bundle.

    Raises:
        BundleNameTaken: another one on offer has the name; the transaction is lost.
    """
    await _write(
        conn,
        """
        INSERT INTO bundles (id, created_at, updated_at,
                             name, description, token_count, duration_hours, scope, discount_percent)
        VALUES ($1, $2, $2, $3, $4, $5, $6, $7, $8)
        """,
        bundle,
        now,
    )


async def update_bundle(conn: Connection, *, bundle: Bundle, now: datetime) -> None:
    """Give a locked bundle other terms.

    Raises:
        BundleNameTaken: as for ``insert_bundle``.
    """
    await _write(
        conn,
        """
        UPDATE bundles
        SET updated_at = $2, name = $3, description = $4, token_count = $5, duration_hours = $6, scope = $7,
            discount_percent = $8
        WHERE id = $1
        """,
        bundle,
        now,
    )


async def update_deleted(conn: Connection, *, bundle_id: UUID, now: datetime) -> None:
    """Take a locked bundle off the offer; its row stays."""
    await conn.execute("UPDATE bundles SET deleted_at = $2, updated_at = $2 WHERE id = $1", bundle_id, now)


async def _write(conn: Connection, statement: str, bundle: Bundle, now: datetime) -> None:
    terms = bundle.terms
    try:
        await conn.execute(
            statement,
            bundle.bundle_id,
            now,
            terms.name,
            terms.description,
            terms.token_count,
            terms.duration_hours,
            terms.scope,
            terms.discount_percent,
        )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == "bundles_name_key":
            raise BundleNameTaken from error
        raise


def _bundle_or_not_found(row: asyncpg.Record | None) -> Bundle:
    if row is None:
        raise BundleNotFound
    return _bundle(row)


def _bundle(row: asyncpg.Record) -> Bundle:
    members = dict(row)
    return Bundle(bundle_id=members.pop("id"), terms=BundleTerms(**members))
