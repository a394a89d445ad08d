"""Usage by the hour and by the day: made from what the gateway metered, kept for a while, and shown to its user."""

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from zenzefi.access import service as access
from zenzefi.context import Context
from zenzefi.errors import Invalid
from zenzefi.rollups import queries
from zenzefi.rollups.models import Bucket, UsageReport

# A short transaction, so that little is done again when a worker is killed.
ROLL_UP_BATCH: Final = 5_000
# A meter sends a batch again for as long as its process lives and has no database. An outage of this length, with an
# answer lost at its beginning, would count one second of one process twice.
METER_KEEP: Final = timedelta(days=90)
SIZES: Final = {Bucket.HOUR: timedelta(hours=1), Bucket.DAY: timedelta(days=1)}
# One answer holds all of a report: a month by the hour, or three years by the day.
MAX_BUCKETS: Final = {Bucket.HOUR: 744, Bucket.DAY: 1_100}
DEFAULT_BUCKETS: Final = {Bucket.HOUR: 24, Bucket.DAY: 30}
# Far from the ends of datetime, at which shifting to UTC overflows.
_EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(2100, 1, 1, tzinfo=UTC)


async def roll_up_usage(ctx: Context) -> int:
    """Move all metered batches into their hours and days; how many rows there were.

    Idempotent, and safe beside others doing the same: they do nothing meanwhile.
    """
    total = 0
    while True:
        async with ctx.transaction() as conn:
            if not await queries.try_lock(conn):
                return total
            moved = await queries.roll_up(conn, limit=ROLL_UP_BATCH)
        total += moved
        if moved < ROLL_UP_BATCH:
            return total


async def drop_old_usage(ctx: Context) -> int:
    """Drop the usage that is older than it is kept, by whole months; how many tables there were."""
    retention = ctx.settings.retention
    async with ctx.connection() as conn:
        await queries.delete_idle_meters(conn, idle_since=ctx.now() - METER_KEEP)
        return await queries.drop_old_usage(
            conn, hourly_days=retention.usage_hourly_days, daily_days=retention.usage_daily_days
        )


async def report_usage(
    ctx: Context,
    *,
    user_id: UUID,
    token_id: UUID | None,
    begin: datetime | None,
    end: datetime | None,
    bucket: Bucket,
) -> UsageReport:
    """What a user's tokens, or one of them, used; what is metered and not rolled up yet is in it.

    The bounds are widened to whole buckets of UTC. Without an end it is now; without a beginning it is a day, or 30
    days, before the end.

    Raises:
        Invalid: the bounds are out of order, too far apart, or not in this century.
        TokenNotFound: there is no such token, or it is another user's.
    """
    size = SIZES[bucket]
    for name, instant in (("from", begin), ("to", end)):
        if instant is not None and not _EARLIEST <= instant <= _LATEST:
            raise Invalid({name: ["Give a time between the years 2000 and 2100."]})
    end = _ceil(ctx.now() if end is None else end, size)
    begin = end - DEFAULT_BUCKETS[bucket] * size if begin is None else _floor(begin, size)
    if begin >= end:
        raise Invalid({"from": ["Must be before `to`."]})
    if end - begin > MAX_BUCKETS[bucket] * size:
        raise Invalid({"from": [f"At most {MAX_BUCKETS[bucket]} {bucket}s before `to`."]})
    if token_id is not None:
        await access.get_token(ctx, user_id=user_id, token_id=token_id)
    async with ctx.connection() as conn:
        items = await queries.select_usage(
            conn, user_id=user_id, token_id=token_id, begin=begin, end=end, bucket=bucket
        )
    return UsageReport(begin=begin, end=end, bucket=bucket, items=items)


def _floor(instant: datetime, size: timedelta) -> datetime:
    return instant.astimezone(UTC) - (instant - _EARLIEST) % size


def _ceil(instant: datetime, size: timedelta) -> datetime:
    return instant.astimezone(UTC) + (_EARLIEST - instant) % size
