"""SQL of archiving old months of the audit log."""

from datetime import date, datetime
from typing import Final
from uuid import UUID

from zenzefi.audit.models import Archive, ArchivedRow, DroppedMonth
from zenzefi.audit.seal_queries import ROW_TEXT, TIMEOUT_S
from zenzefi.infra.db import Connection

_PARTITION_OF_A_MONTH: Final = r"^audit_log_(\d{4})_(\d{2})$"


async def select_months(conn: Connection, *, until: datetime) -> list[date]:
    """The months that have a partition and were over at `until`, the oldest first."""
    rows = await conn.fetch(
        """
        SELECT month FROM (
            SELECT make_date(name.part[1]::integer, name.part[2]::integer, 1) AS month
            FROM pg_inherits AS child
            INNER JOIN pg_class AS relation ON relation.oid = child.inhrelid
            CROSS JOIN LATERAL regexp_match(relation.relname, $2) AS name (part)
            WHERE child.inhparent = 'audit_log'::regclass AND name.part IS NOT NULL
        ) AS months
        WHERE month + interval '1 month' <= $1::timestamptz AT TIME ZONE 'UTC'
        ORDER BY month
        """,
        until,
        _PARTITION_OF_A_MONTH,
    )
    return [row["month"] for row in rows]


async def select_rows(conn: Connection, *, month: date, after: UUID | None, limit: int) -> list[ArchivedRow]:
    """The next rows of a month by their ids, each as the text that was hashed, with the hash that was sealed."""
    rows = await conn.fetch(
        """
        SELECT entry.id AS entry_id, """  # noqa: S608  constants of this package
        + ROW_TEXT
        + """ AS text, sealed.row_hash
        FROM audit_log AS entry LEFT JOIN audit_sealed_rows AS sealed ON sealed.entry_id = entry.id
        WHERE entry.id >= uuid7_floor($1::date::timestamp AT TIME ZONE 'UTC')
            AND entry.id < uuid7_floor(($1::date + interval '1 month') AT TIME ZONE 'UTC')
            AND ($2::uuid IS NULL OR entry.id > $2)
        ORDER BY entry.id
        LIMIT $3
        """,
        month,
        after,
        limit,
    )
    return [ArchivedRow(**row) for row in rows]


async def count_seals(conn: Connection, *, month: date) -> int:
    """How many rows of a month have a seal, whether or not they are there."""
    count: int = await conn.fetchval(
        """
        SELECT count(*) FROM audit_sealed_rows
        WHERE entry_id >= uuid7_floor($1::date::timestamp AT TIME ZONE 'UTC')
            AND entry_id < uuid7_floor(($1::date + interval '1 month') AT TIME ZONE 'UTC')
        """,
        month,
        timeout=TIMEOUT_S,
    )
    return count


async def insert_archive(conn: Connection, archive: Archive, *, now: datetime) -> None:
    """Record an object that was stored and read back."""
    await conn.execute(
        """
        INSERT INTO audit_archives (id, month, object_key, row_count, size_bytes, sha256, archived_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        """,
        archive.id,
        archive.month,
        archive.object_key,
        archive.row_count,
        archive.size_bytes,
        archive.sha256,
        now,
    )


async def find_archive(conn: Connection, *, month: date) -> Archive | None:
    """The newest archive of a month."""
    row = await conn.fetchrow(
        "SELECT id, month, object_key, row_count, size_bytes, sha256 FROM audit_archives WHERE month = $1 "
        "ORDER BY id DESC LIMIT 1",
        month,
    )
    return None if row is None else Archive(**row)


async def drop_month(conn: Connection, *, month: date) -> bool:
    """Drop the partition of a month that is archived; False when somebody else has just done so."""
    dropped: bool = await conn.fetchval("SELECT drop_archived_audit_month($1)", month, timeout=TIMEOUT_S)
    return dropped


async def select_dropped_months(conn: Connection) -> list[DroppedMonth]:
    """The months that only their archives have, the oldest first."""
    rows = await conn.fetch(
        """
        SELECT a.id, a.month, a.object_key, a.row_count, a.size_bytes, a.sha256, d.first_id, d.end_id
        FROM audit_archive_drops AS d INNER JOIN audit_archives AS a ON a.id = d.archive_id
        ORDER BY d.month
        """
    )
    months = []
    for row in rows:
        members = dict(row)
        bounds = {name: members.pop(name) for name in ("first_id", "end_id")}
        months.append(DroppedMonth(archive=Archive(**members), **bounds))
    return months


async def select_sealed_hashes(
    conn: Connection, *, first_id: UUID, end_id: UUID, after: UUID | None, limit: int
) -> list[tuple[UUID, bytes]]:
    """The next rows of a range that have a seal, by their ids: each id and the hash that was sealed."""
    rows = await conn.fetch(
        """
        SELECT entry_id, row_hash FROM audit_sealed_rows
        WHERE entry_id >= $1 AND entry_id < $2 AND ($3::uuid IS NULL OR entry_id > $3)
        ORDER BY entry_id
        LIMIT $4
        """,
        first_id,
        end_id,
        after,
        limit,
    )
    return [(row["entry_id"], row["row_hash"]) for row in rows]
