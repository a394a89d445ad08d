"""SQL of the census: counts over the tables of all slices, which read a bounded number of rows each."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, cast
from uuid import UUID

from zenzefi.infra.db import Connection

# Counted exactly up to here: some 10 ms each.
EXACT_ROWS: Final = 50_000
# Of a larger table so many pages of 8 KiB are looked at, chosen anew each time: some 20 ms.
SAMPLE_PAGES: Final = 2_000
# Users are looked up by a token each.
EXACT_SESSIONS: Final = 10_000
EXACT_PAYMENTS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingPayments:
    """How many payments are pending and how many of those are stuck; when the oldest was begun."""

    pending: int
    stuck: int
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What PostgreSQL does for this database at the moment."""

    active: int
    idle: int
    idle_in_transaction: int
    lock_waits: int
    oldest_transaction_s: float
    max_connections: int


async def walk_indexes_only(conn: Connection) -> None:
    """Keep the planner, until the transaction ends, from reading a table from its start for rows that are elsewhere.

    A LIMIT makes that look cheap to it, and it is cheap only while such rows are evenly spread.
    """
    await conn.execute("SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)")


async def count_active_tokens(conn: Connection, *, now: datetime) -> int:
    """Tokens whose clock runs, up to EXACT_ROWS."""
    query = """
        SELECT count(*) FROM (SELECT FROM access_tokens WHERE ended_at IS NULL AND expires_at > $1 LIMIT $2) AS found
    """
    return int(await conn.fetchval(query, now, EXACT_ROWS))


async def count_unused_tokens(conn: Connection) -> int:
    """Tokens whose clock has not started, up to EXACT_ROWS."""
    query = """
        SELECT count(*) FROM (SELECT FROM access_tokens WHERE ended_at IS NULL AND expires_at IS NULL LIMIT $1) AS found
    """
    return int(await conn.fetchval(query, EXACT_ROWS))


async def estimate_tokens(conn: Connection, *, now: datetime) -> tuple[int, int]:
    """Active and unused tokens by a random sample of the table's pages; some 10 % off, as neighbours are alike."""
    row = await conn.fetchrow(
        """
        WITH sample AS (
            SELECT least(100, $2 * 100.0 * 8192 / greatest(pg_relation_size('access_tokens'), 1))::real AS percent
        ), found AS (
            SELECT
                count(*) FILTER (WHERE ended_at IS NULL AND expires_at > $1) AS active,
                count(*) FILTER (WHERE ended_at IS NULL AND expires_at IS NULL) AS unused
            FROM access_tokens TABLESAMPLE SYSTEM ((SELECT percent FROM sample))
        )
        SELECT (active * 100 / percent)::bigint AS active, (unused * 100 / percent)::bigint AS unused FROM found, sample
        """,
        now,
        SAMPLE_PAGES,
    )
    assert row is not None
    return row["active"], row["unused"]


async def count_open_sessions(conn: Connection) -> int:
    """Open sessions of use, up to EXACT_ROWS."""
    query = "SELECT count(*) FROM (SELECT FROM gateway_sessions WHERE ended_at IS NULL LIMIT $1) AS found"
    return int(await conn.fetchval(query, EXACT_ROWS))


async def estimate_open_sessions(conn: Connection) -> int:
    """Open sessions by a random sample of the table's pages."""
    query = """
        WITH sample AS (
            SELECT least(100, $1 * 100.0 * 8192 / greatest(pg_relation_size('gateway_sessions'), 1))::real AS percent
        )
        SELECT (count(*) FILTER (WHERE ended_at IS NULL) * 100 / (SELECT percent FROM sample))::bigint
        FROM gateway_sessions TABLESAMPLE SYSTEM ((SELECT percent FROM sample))
    """
    return int(await conn.fetchval(query, SAMPLE_PAGES))


async def count_active_users(conn: Connection) -> int:
    """The users of up to EXACT_SESSIONS open sessions."""
    query = """
        SELECT count(DISTINCT (SELECT user_id FROM access_tokens WHERE id = found.token_id))
        FROM (SELECT token_id FROM gateway_sessions WHERE ended_at IS NULL LIMIT $1) AS found
    """
    return int(await conn.fetchval(query, EXACT_SESSIONS))


async def count_users(conn: Connection) -> int:
    """Accounts, up to EXACT_ROWS."""
    return int(await conn.fetchval("SELECT count(*) FROM (SELECT id FROM users LIMIT $1) AS found", EXACT_ROWS))


async def estimate_users(conn: Connection) -> int:
    """Accounts as of the last VACUUM or ANALYZE."""
    return int(await conn.fetchval("SELECT reltuples::bigint FROM pg_class WHERE oid = 'users'::regclass"))


async def find_pending_payments(
    conn: Connection, *, unchecked_since: datetime, begun_before: datetime
) -> PendingPayments:
    """Of up to EXACT_PAYMENTS pending payments; stuck are those not checked since then, and those begun before then."""
    row = await conn.fetchrow(
        """
        SELECT
            count(*) AS pending,
            count(*) FILTER (WHERE next_check_at < $1 OR created_at < $2) AS stuck,
            min(created_at) AS oldest_at
        FROM (SELECT next_check_at, created_at FROM payments WHERE status = 'pending' LIMIT $3) AS found
        """,
        unchecked_since,
        begun_before,
        EXACT_PAYMENTS,
    )
    assert row is not None
    return PendingPayments(pending=row["pending"], stuck=row["stuck"], oldest_at=row["oldest_at"])


async def find_oldest_batch(conn: Connection) -> UUID | None:
    """The oldest batch of usage that is not rolled up: its id tells when it was metered. None when all are."""
    return cast(UUID | None, await conn.fetchval("SELECT batch_id FROM usage_batches ORDER BY batch_id LIMIT 1"))


async def get_database_size(conn: Connection) -> int:
    """Bytes on disk; PostgreSQL asks for the size of each file."""
    return int(await conn.fetchval("SELECT pg_database_size(current_database())"))


async def get_activity(conn: Connection) -> Activity:
    """What the connections to this database do; those of other roles count in no state."""
    row = await conn.fetchrow(
        """
        SELECT
            count(*) FILTER (WHERE state = 'active') AS active,
            count(*) FILTER (WHERE state = 'idle') AS idle,
            count(*) FILTER (WHERE state LIKE 'idle in transaction%') AS idle_in_transaction,
            count(*) FILTER (WHERE wait_event_type = 'Lock') AS lock_waits,
            coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)), 0)::float8 AS oldest_transaction_s,
            current_setting('max_connections')::integer AS max_connections
        FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
        """
    )
    assert row is not None
    return Activity(**row)
