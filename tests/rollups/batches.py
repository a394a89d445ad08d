"""Batches as a meter makes them, and what came of them."""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from zenzefi.context import Context
from zenzefi.gateway.metering import Batch
from zenzefi.gateway.models import Outcome, Usage
from zenzefi.gateway.queries import insert_usage
from zenzefi.infra.db import Connection

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
Totals = dict[tuple[str, object, str, str], tuple[int, int, int]]


@dataclass
class FakeMeter:
    """Numbers its batches, as a process does."""

    meter_id: UUID = field(default_factory=uuid4)
    batch_no: int = 0

    def batch(self, ctx: Context, *usage: Usage) -> Batch:
        self.batch_no += 1
        return Batch(meter_id=self.meter_id, batch_no=self.batch_no, batch_id=ctx.new_id(), usage=list(usage), uses=[])


def used(user_id: UUID, token_id: UUID, *, hours_ago: int = 0, requests: int = 1) -> Usage:
    return Usage(
        token_id=token_id,
        user_id=user_id,
        hour=NOON - timedelta(hours=hours_ago),
        outcome=Outcome.SERVED,
        requests=requests,
        bytes_in=10 * requests,
        bytes_out=100 * requests,
    )


def random_usage(source: random.Random, people: list[tuple[UUID, UUID]]) -> list[Usage]:
    """What a process counts in a second: of some tokens, in an hour or two, with an outcome or two."""
    rows = {}
    for _ in range(source.randrange(1, 8)):
        user_id, token_id = source.choice(people)
        usage = used(user_id, token_id, hours_ago=source.randrange(0, 40), requests=source.randrange(0, 5))
        usage.outcome = source.choice([Outcome.SERVED, Outcome.DENIED])
        rows[usage.token_id, usage.hour, usage.outcome] = usage
    return list(rows.values())


async def insert(conn: Connection, ctx: Context, batch: Batch) -> bool:
    return await insert_usage(
        conn,
        meter_id=batch.meter_id,
        batch_no=batch.batch_no,
        batch_id=batch.batch_id,
        usage=batch.usage,
        now=ctx.now(),
    )


async def store(ctx: Context, batch: Batch) -> bool:
    async with ctx.transaction() as conn:
        return await insert(conn, ctx, batch)


def truth(batches: list[Batch], *, by_day: bool) -> Totals:
    """What the tables must hold of these batches."""
    totals: Totals = {}
    for row in (row for batch in batches for row in batch.usage):
        key = (str(row.user_id), row.hour.date() if by_day else row.hour, str(row.token_id), str(row.outcome))
        before = totals.get(key, (0, 0, 0))
        totals[key] = (before[0] + row.requests, before[1] + row.bytes_in, before[2] + row.bytes_out)
    return totals


async def rolled_up(ctx: Context, *, by_day: bool) -> Totals:
    """What the tables hold."""
    query = (
        "SELECT user_id, day, token_id, outcome, requests, bytes_in, bytes_out FROM usage_daily"
        if by_day
        else "SELECT user_id, hour, token_id, outcome, requests, bytes_in, bytes_out FROM usage_hourly"
    )
    async with ctx.connection() as conn:
        rows = await conn.fetch(query)
    return {(str(row[0]), row[1], str(row[2]), row[3]): (row[4], row[5], row[6]) for row in rows}


async def left_over(ctx: Context) -> int:
    """How many rows of batches are not rolled up."""
    async with ctx.connection() as conn:
        count: int = await conn.fetchval("SELECT count(*) FROM usage_batches")
    return count
