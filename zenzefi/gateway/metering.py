"""Counting what tokens use: in the process, and every second in one transaction to PostgreSQL.

A batch keeps its number until it is known to be stored. So a COMMIT whose answer was lost is simply sent again, and
nothing is counted twice or not at all; only a process that is killed takes its last second with it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from zenzefi.access.models import TokenGrant
from zenzefi.context import Context
from zenzefi.errors import DatabaseUnavailable
from zenzefi.gateway import queries
from zenzefi.gateway.models import Outcome, SessionUse, Usage
from zenzefi.gateway.sessions import SESSION_IDLE_S
from zenzefi.gateway.streams import OpenStream, OpenStreams
from zenzefi.gateway.tokens import LEASE_S
from zenzefi.infra.business_instruments import SESSIONS_OPENED
from zenzefi.infra.instruments import METERING_BACKLOG, METERING_FLUSHES

FLUSH_S: Final = 1.0  # what a killed process forgets at most; also one transaction a second and process
TOUCH_S: Final = 60.0  # how often a silent stream counts as activity of its session: well within a session's idle time
# The lease's copy in PostgreSQL is renewed once it has less than this left: a row is written about once a minute, and
# without Redis a device keeps its token for at least four minutes after its last request.
LEASE_RENEW_S: Final = LEASE_S - 60
# Without a database new tokens cannot be admitted for longer than five seconds, so that this is a bound on paper: 100
# MB. What is beyond it is counted as lost in the log.
MAX_COUNTERS: Final = 100_000
# A batch that PostgreSQL itself refuses so often in a row is our defect; it must not hold up those behind it for ever.
MAX_REFUSALS: Final = 10

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What was counted between two flushes."""

    meter_id: UUID
    batch_no: int  # a meter's batches are stored in the order of their numbers, each before the next one is taken
    batch_id: UUID
    usage: list[Usage]
    uses: list[SessionUse]

    @property
    def requests(self) -> int:
        """How many requests are in it."""
        return sum(row.requests for row in self.usage)


class Meter:
    """The counters of one process."""

    def __init__(self, ctx: Context, *, streams: OpenStreams, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Take the open streams: they are counted while they run."""
        self._ctx = ctx
        self._streams = streams
        self._monotonic = monotonic
        # By plain values: the ids' and the outcome's own hash functions are not C's.
        self._usage: dict[tuple[int, datetime, str], Usage] = {}
        self._uses: dict[tuple[int, bytes], SessionUse] = {}
        self._hour = self._next_hour = datetime.fromtimestamp(0, UTC)
        self._meter_id = ctx.new_id()
        self._batch_no = 0
        self._unstored: Batch | None = None
        self._refusals = 0
        self._lost_requests = 0
        self._flushing = asyncio.Lock()
        METERING_BACKLOG.labels().set(0)

    def count(self, stream: OpenStream) -> None:
        """Count a request that has ended, and its bytes that are not counted yet."""
        self._add(stream, requests=1)

    def count_denied(self, grant: TokenGrant) -> None:
        """Count a request of a usable token that was not let through; it is no use of the device's session."""
        self._usage_of(grant, self._ctx.now(), Outcome.DENIED).requests += 1

    @property
    def backlog(self) -> int:
        """Requests that are counted and not stored yet."""
        unstored = 0 if self._unstored is None else self._unstored.requests
        return unstored + sum(usage.requests for usage in self._usage.values())

    async def flush_for_ever(self) -> None:
        """Store the counters every FLUSH_S seconds; while the database is away they are kept."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> bool:
        """Store what has been counted up to now; whether all of it is stored. Never raises."""
        async with self._flushing:
            try:
                if not await self._store_batch():
                    return False  # the one from before comes first
                self._count_open_streams()
                self._unstored = self._take_batch()
                return await self._store_batch()
            finally:
                METERING_BACKLOG.labels().set(self.backlog)

    async def _store_batch(self) -> bool:
        batch = self._unstored
        if batch is None:
            return True
        try:
            await _store(self._ctx, batch)
        except DatabaseUnavailable:
            METERING_FLUSHES.labels("unavailable").inc()
            log.warning("usage_not_stored", requests=batch.requests)
            return False
        except Exception as error:  # noqa: BLE001  whatever it is, it must not end the metering
            self._note_refusal(batch, error)
            return False
        METERING_FLUSHES.labels("stored").inc()
        self._unstored, self._refusals = None, 0
        return True

    def _add(self, stream: OpenStream, *, requests: int) -> None:
        bytes_in, bytes_out = stream.take_unmetered()
        now = self._ctx.now()
        stream.touched_at = self._monotonic()
        use = self._use_of(stream, now)
        use.requests += requests
        use.bytes_in += bytes_in
        use.bytes_out += bytes_out
        if requests or bytes_in or bytes_out:
            usage = self._usage_of(stream.grant, now, stream.outcome)
            usage.requests += requests
            usage.bytes_in += bytes_in
            usage.bytes_out += bytes_out

    def _usage_of(self, grant: TokenGrant, now: datetime, outcome: Outcome) -> Usage:
        if not self._hour <= now < self._next_hour:
            self._hour = now.replace(minute=0, second=0, microsecond=0)
            self._next_hour = self._hour + timedelta(hours=1)
        key = (grant.token_id.int, self._hour, str(outcome))
        usage = self._usage.get(key)
        if usage is None:
            usage = Usage(token_id=grant.token_id, user_id=grant.user_id, hour=key[1], outcome=outcome)
            if len(self._usage) < MAX_COUNTERS:
                self._usage[key] = usage
            else:
                self._lost_requests += 1
        return usage

    def _use_of(self, stream: OpenStream, now: datetime) -> SessionUse:
        key = (stream.grant.token_id.int, stream.device.device_hash)
        use = self._uses.get(key)
        if use is None:
            use = SessionUse(
                token_id=stream.grant.token_id,
                device=stream.device,
                ip=stream.ip,
                user_agent=stream.user_agent,
                first_at=now,
                last_at=now,
            )
            if len(self._uses) < MAX_COUNTERS:
                self._uses[key] = use
        use.last_at = now
        return use

    def _count_open_streams(self) -> None:
        touch_before = self._monotonic() - TOUCH_S
        for stream in self._streams:
            if stream.has_unmetered or stream.touched_at < touch_before:
                self._add(stream, requests=0)

    def _take_batch(self) -> Batch | None:
        """All that was counted since the last batch; None when there is nothing."""
        if not self._usage and not self._uses:
            return None
        self._batch_no += 1
        batch = Batch(
            meter_id=self._meter_id,
            batch_no=self._batch_no,
            batch_id=self._ctx.new_id(),
            usage=list(self._usage.values()),
            uses=list(self._uses.values()),
        )
        self._usage, self._uses = {}, {}
        if self._lost_requests:
            log.error("usage_lost", requests=self._lost_requests, reason="too many counters")
            self._lost_requests = 0
        return batch

    def _note_refusal(self, batch: Batch, error: Exception) -> None:
        METERING_FLUSHES.labels("refused").inc()
        self._refusals += 1
        log.error("usage_refused", requests=batch.requests, times=self._refusals, exc_info=error)
        if self._refusals >= MAX_REFUSALS:
            log.error("usage_lost", requests=batch.requests, reason="refused too often")
            self._unstored, self._refusals = None, 0


async def _store(ctx: Context, batch: Batch) -> None:
    """Store a batch whole or not at all; one that is stored already changes nothing."""
    opened = 0
    async with ctx.connection() as conn:
        if batch.uses:
            await queries.update_outlived_sessions(conn, uses=batch.uses, idle_s=SESSION_IDLE_S)
        async with conn.transaction():
            is_new = await queries.insert_usage(
                conn,
                meter_id=batch.meter_id,
                batch_no=batch.batch_no,
                batch_id=batch.batch_id,
                usage=batch.usage,
                now=ctx.now(),
            )
            if batch.uses and is_new:
                new_ids = [ctx.new_id() for _ in batch.uses]
                opened = await queries.upsert_sessions(conn, uses=batch.uses, new_ids=new_ids)
        SESSIONS_OPENED.labels().inc(opened)
        if batch.uses:
            await queries.update_device_leases(
                conn, uses=batch.uses, due_before=ctx.now() + timedelta(seconds=LEASE_RENEW_S), lease_s=LEASE_S
            )
