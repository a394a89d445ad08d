"""SQL of usage by the hour and by the day."""

from datetime import datetime
from typing import Final, LiteralString, cast
from uuid import UUID

from zenzefi.infra.db import Connection
from zenzefi.rollups.models import Bucket, BucketUsage

_LOCK_ID: Final = 0x7A6E_7A72_6F6C_6C75  # "znzrollu": nobody else's in this database


async def try_lock(conn: Connection) -> bool:
    """Keep other roll-ups out until the transaction ends; False when one is at work."""
    return cast(bool, await conn.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK_ID))


async def roll_up(conn: Connection, *, limit: int) -> int:
    """Move up to `limit` rows of batches into their hours and days; how many there were.

    One statement, hence all of it or nothing. Rows are taken, not a range of ids: a batch that is late, or whose
    transaction ended late, is found like any other. Each row is deleted by one transaction only, which counts it.
    """
    return cast(
        int,
        await conn.fetchval(
            """
            WITH claimed AS MATERIALIZED (
                SELECT batch_id, token_id, hour, outcome FROM usage_batches ORDER BY batch_id LIMIT $1
            ), taken AS (
                DELETE FROM usage_batches AS batch USING claimed
                WHERE batch.batch_id = claimed.batch_id AND batch.token_id = claimed.token_id
                    AND batch.hour = claimed.hour AND batch.outcome = claimed.outcome
                RETURNING batch.user_id, batch.hour, batch.token_id, batch.outcome, batch.requests, batch.bytes_in,
                    batch.bytes_out
            ), hourly AS (
                INSERT INTO usage_hourly AS known
                    (user_id, hour, token_id, outcome, requests, bytes_in, bytes_out)
                SELECT user_id, date_trunc('hour', hour, 'UTC'), token_id, outcome, sum(requests), sum(bytes_in),
                    sum(bytes_out)
                FROM taken GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
                ON CONFLICT (user_id, hour, token_id, outcome) DO UPDATE SET
                    requests = known.requests + excluded.requests,
                    bytes_in = known.bytes_in + excluded.bytes_in,
                    bytes_out = known.bytes_out + excluded.bytes_out
            ), daily AS (
                INSERT INTO usage_daily AS known
                    (user_id, day, token_id, outcome, requests, bytes_in, bytes_out)
                SELECT user_id, (hour AT TIME ZONE 'UTC')::date, token_id, outcome, sum(requests), sum(bytes_in),
                    sum(bytes_out)
                FROM taken GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
                ON CONFLICT (user_id, day, token_id, outcome) DO UPDATE SET
                    requests = known.requests + excluded.requests,
                    bytes_in = known.bytes_in + excluded.bytes_in,
                    bytes_out = known.bytes_out + excluded.bytes_out
            )
            SELECT count(*) FROM taken
            """,
            limit,
        ),
    )


async def drop_old_usage(conn: Connection, *, hourly_days: int, daily_days: int) -> int:
    """Drop the months that are over for longer than usage is kept; how many tables there were."""
    return cast(int, await conn.fetchval("SELECT drop_old_usage($1, $2)", hourly_days, daily_days))


async def delete_idle_meters(conn: Connection, *, idle_since: datetime) -> int:
    """Forget the meters that stored nothing since an instant; how many there were."""
    status = await conn.execute("DELETE FROM usage_meters WHERE at < $1", idle_since)
    return int(status.rpartition(" ")[2])


_HOURLY: LiteralString = """
    SELECT start, sum(requests)::bigint AS requests, sum(bytes_in)::bigint AS bytes_in,
        sum(bytes_out)::bigint AS bytes_out
    FROM (
        SELECT hour AS start, requests, bytes_in, bytes_out FROM usage_hourly
        WHERE user_id = $1 AND hour >= $2 AND hour < $3 AND ($4::uuid IS NULL OR token_id = $4)
        UNION ALL
        SELECT date_trunc('hour', hour, 'UTC'), requests, bytes_in, bytes_out FROM usage_batches
        WHERE user_id = $1 AND hour >= $2 AND hour < $3 AND ($4::uuid IS NULL OR token_id = $4)
    ) AS used
    GROUP BY start ORDER BY start
"""
_DAILY: LiteralString = """
    SELECT start, sum(requests)::bigint AS requests, sum(bytes_in)::bigint AS bytes_in,
        sum(bytes_out)::bigint AS bytes_out
    FROM (
        SELECT day::timestamp AT TIME ZONE 'UTC' AS start, requests, bytes_in, bytes_out FROM usage_daily
        WHERE user_id = $1 AND day >= ($2::timestamptz AT TIME ZONE 'UTC')::date
            AND day < ($3::timestamptz AT TIME ZONE 'UTC')::date AND ($4::uuid IS NULL OR token_id = $4)
        UNION ALL
        SELECT date_trunc('day', hour, 'UTC'), requests, bytes_in, bytes_out FROM usage_batches
        WHERE user_id = $1 AND hour >= $2 AND hour < $3 AND ($4::uuid IS NULL OR token_id = $4)
    ) AS used
    GROUP BY start ORDER BY start
"""


async def select_usage(
    conn: Connection, *, user_id: UUID, token_id: UUID | None, begin: datetime, end: datetime, bucket: Bucket
) -> list[BucketUsage]:
    """A user's usage by bucket, the oldest first, of all tokens or one.

    One statement, hence one snapshot: a batch is either still there or in its hour and day, and never in both.
    """
    rows = await conn.fetch(_HOURLY if bucket is Bucket.HOUR else _DAILY, user_id, begin, end, token_id)
    return [BucketUsage(**row) for row in rows]
