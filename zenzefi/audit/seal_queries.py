"""SQL of the seals over the audit log, and of looking for what does not fit them."""

from datetime import datetime
from typing import Final
from uuid import UUID

from zenzefi.audit.models import AuditFault, AuditFaultKind, Seal
from zenzefi.infra.db import Connection

# A full look through a large log takes minutes; it is for an operator, never for a request.
TIMEOUT_S: Final = 3600.0
# A log that was tampered with thoroughly has many; a report that can be read names some of each kind.
FAULTS_PER_KIND: Final = 100

_NO_HASH: Final = bytes(32)  # what the first seal has in the place of the hash before
_LOCK_ID: Final = 0x7A6E7A5345414C  # "znzSEAL": one job seals at a time

# One text for each row, whatever the session's time zone and formats are: jsonb has one order of members.
ROW_TEXT: Final = """
    jsonb_build_array(
        entry.id, (extract(epoch FROM entry.at) * 1000000)::bigint, entry.actor_kind, entry.actor_user_id, entry.action,
        entry.resource_type, entry.resource_id, entry.before, entry.after, host(entry.ip), entry.user_agent,
        entry.request_id
    )::text
"""
_ROW_HASH: Final = f"sha256(convert_to({ROW_TEXT}, 'UTF8'))"
_SEAL_HASH: Final = """
    sha256(
        seal.previous_hash || int8send(seal.seal_no)
        || int8send((extract(epoch FROM seal.sealed_at) * 1000000)::bigint)
        || int8send((extract(epoch FROM seal.covered_until) * 1000000)::bigint)
        || int8send(seal.row_count)
        || (SELECT coalesce(string_agg(uuid_send(entry_id) || row_hash, '' ORDER BY entry_id), '')
            FROM audit_sealed_rows WHERE seal_no = seal.seal_no)
    )
"""

# Each selects (subject, detail). $1 bounds their number; $2 is the least id that may still wait for its seal.
_SELECT_FAULTS: Final = {
    AuditFaultKind.ALTERED: """
        SELECT entry.id::text AS subject, format('the row of seal %s is not what was sealed', sealed.seal_no) AS detail
        FROM audit_sealed_rows AS sealed INNER JOIN audit_log AS entry ON entry.id = sealed.entry_id
        WHERE sealed.row_hash <> """  # noqa: S608  constants of this file
    + _ROW_HASH
    + " ORDER BY entry.id LIMIT $1",
    AuditFaultKind.MISSING: """
        SELECT sealed.entry_id::text AS subject, format('the row of seal %s is gone', sealed.seal_no) AS detail
        FROM audit_sealed_rows AS sealed LEFT JOIN audit_log AS entry ON entry.id = sealed.entry_id
        WHERE entry.id IS NULL
            AND NOT EXISTS (
                SELECT FROM audit_archive_drops AS archived
                WHERE sealed.entry_id >= archived.first_id AND sealed.entry_id < archived.end_id
            )
        ORDER BY sealed.entry_id LIMIT $1
    """,
    AuditFaultKind.INSERTED: """
        SELECT entry.id::text AS subject, 'no seal covers the row, and those after it are sealed' AS detail
        FROM audit_log AS entry LEFT JOIN audit_sealed_rows AS sealed ON sealed.entry_id = entry.id
        WHERE sealed.entry_id IS NULL AND entry.id < $2
        ORDER BY entry.id LIMIT $1
    """,
    AuditFaultKind.SEAL_BROKEN: """
        SELECT chain.seal_no::text AS subject, 'the seal does not fit its rows or the seal before it' AS detail
        FROM (
            SELECT
                seal.seal_no,
                seal.seal_no = row_number() OVER (ORDER BY seal.seal_no)
                AND seal.previous_hash = lag(seal.seal_hash, 1, '\\x"""  # noqa: S608  constants of this file
    + _NO_HASH.hex()
    + """'::bytea) OVER (ORDER BY seal.seal_no)
                AND seal.row_count = (SELECT count(*) FROM audit_sealed_rows WHERE seal_no = seal.seal_no)
                AND seal.seal_hash = """
    + _SEAL_HASH
    + """ AS fits
            FROM audit_seals AS seal
        ) AS chain
        WHERE NOT chain.fits
        ORDER BY chain.seal_no LIMIT $1
    """,
    AuditFaultKind.SEAL_MISSING: """
        SELECT DISTINCT sealed.seal_no::text AS subject, 'rows name the seal, and it is gone' AS detail
        FROM audit_sealed_rows AS sealed LEFT JOIN audit_seals AS seal ON seal.seal_no = sealed.seal_no
        WHERE seal.seal_no IS NULL
        LIMIT $1
    """,
}


async def try_lock(conn: Connection) -> bool:
    """Become the one that seals, until the transaction ends; False when somebody else is."""
    locked: bool = await conn.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK_ID)
    return locked


async def find_newest_seal(conn: Connection) -> Seal | None:
    """The head of the chain."""
    row = await conn.fetchrow(
        "SELECT seal_no, covered_until, row_count, seal_hash FROM audit_seals ORDER BY seal_no DESC LIMIT 1"
    )
    return None if row is None else Seal(**row)


async def insert_sealed_rows(conn: Connection, *, seal_no: int, since: UUID, limit: int) -> list[UUID]:
    """Hash the rows with an id from `since` on that no seal covers, the oldest first; their ids."""
    rows = await conn.fetch(
        """
        WITH fresh AS (
            INSERT INTO audit_sealed_rows (entry_id, seal_no, row_hash)
            SELECT entry.id, $1, """  # noqa: S608  constants of this file
        + _ROW_HASH
        + """
            FROM audit_log AS entry
            WHERE entry.id >= $2
                AND NOT EXISTS (
                    SELECT FROM audit_sealed_rows AS sealed WHERE sealed.entry_id = entry.id AND sealed.entry_id >= $2
                )
            ORDER BY entry.id
            LIMIT $3
            RETURNING entry_id
        )
        SELECT entry_id FROM fresh ORDER BY entry_id
        """,
        seal_no,
        since,
        limit,
    )
    return [row["entry_id"] for row in rows]


async def insert_seal(
    conn: Connection,
    *,
    seal_no: int,
    previous_hash: bytes | None,
    row_count: int,
    covered_until: datetime,
    now: datetime,
) -> Seal:
    """Chain a batch of hashed rows to the seal before it."""
    row = await conn.fetchrow(
        """
        INSERT INTO audit_seals (seal_no, sealed_at, covered_until, row_count, previous_hash, seal_hash)
        SELECT seal.seal_no, seal.sealed_at, seal.covered_until, seal.row_count, seal.previous_hash, """  # noqa: S608
        + _SEAL_HASH
        + """
        FROM (
            SELECT
                $1::bigint AS seal_no, $2::timestamptz AS sealed_at, $3::timestamptz AS covered_until,
                $4::bigint AS row_count, $5::bytea AS previous_hash
        ) AS seal
        RETURNING seal_no, covered_until, row_count, seal_hash
        """,
        seal_no,
        now,
        covered_until,
        row_count,
        previous_hash or _NO_HASH,
    )
    assert row is not None, "one row was inserted"
    return Seal(**row)


async def begin_snapshot(conn: Connection) -> None:
    """Let the statements of this transaction, which has run none yet, all see one state; it can write nothing."""
    await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


async def count_rows(conn: Connection) -> tuple[int, int]:
    """How many rows are sealed, and how many are not."""
    row = await conn.fetchrow(
        """
        SELECT count(sealed.entry_id) AS sealed, count(*) - count(sealed.entry_id) AS waiting
        FROM audit_log AS entry LEFT JOIN audit_sealed_rows AS sealed ON sealed.entry_id = entry.id
        """,
        timeout=TIMEOUT_S,
    )
    assert row is not None, "an aggregate without GROUP BY has one row"
    return row["sealed"], row["waiting"]


async def find_seal_hash(conn: Connection, *, seal_no: int) -> bytes | None:
    """The hash of one seal."""
    seal_hash: bytes | None = await conn.fetchval("SELECT seal_hash FROM audit_seals WHERE seal_no = $1", seal_no)
    return seal_hash


async def select_faults(conn: Connection, *, kind: AuditFaultKind, waiting_since: UUID) -> list[AuditFault]:
    """The first FAULTS_PER_KIND places of one kind."""
    arguments = (FAULTS_PER_KIND, waiting_since) if kind is AuditFaultKind.INSERTED else (FAULTS_PER_KIND,)
    rows = await conn.fetch(_SELECT_FAULTS[kind], *arguments, timeout=TIMEOUT_S)
    return [AuditFault(kind=kind, subject=row["subject"], detail=row["detail"]) for row in rows]
