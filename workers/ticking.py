"""The clock of a worker: enqueues what the schedule says is due, once for all workers of a queue.

arq's own cron jobs are not used. They forget an instant at which Redis was away or no worker ran, a worker that is late
enqueues one for the second time (it runs again a minute later), they know one time zone and go by the machine's clock,
and what takes longer than its interval piles up. Here all workers go by the database's clock. The first that sees an
instant leaves a mark and enqueues in one step, and a job that still waits or runs is not enqueued again.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import asyncpg
import structlog
from arq.connections import ArqRedis
from arq.constants import expires_extra_ms, job_key_prefix
from arq.jobs import serialize_job as describe_job
from redis.exceptions import RedisError

from workers.outcomes import fact_name
from workers.scheduling import Line
from workers.timetable import Daily, Timetable
from zenzefi.context import Context
from zenzefi.errors import DatabaseUnavailable, JsonObject
from zenzefi.infra import facts
from zenzefi.infra.queue import queue_key, serialize_job
from zenzefi.jobs import Job, queue_of

LOOK_S: Final = 0.25
# For so long a worker that was suspended finds that others have seen to an instant.
_MARK_S: Final = 3600
# A day is too long to wait when an instant was missed; what a worker begins in time has begun by then.
CATCH_UP_S: Final = 300.0
_IN_TIME = timedelta(minutes=2)

# KEYS: the instant's mark, the job, its queue. ARGV: the job's id, the job, now, how long mark and job are kept, in ms.
_ENQUEUE: Final = """
if not redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[4]) then return 0 end
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('PSETEX', KEYS[2], ARGV[5], ARGV[2])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
return 1
"""

log = structlog.get_logger("zenzefi.worker")


def cron_id(job: Job) -> str:
    """The id that every scheduled run of a job has, so that there is never more than one of them."""
    return f"cron:{job}"


@dataclass(slots=True)
class _Hand:
    """A line of the schedule, and the instant that was seen to last."""

    line: Line
    timetable: Timetable
    seen: datetime | None = field(default=None)


class Ticker:
    """Enqueues what is due; any number of them may run beside each other."""

    def __init__(self, ctx: Context, pool: ArqRedis, lines: Sequence[Line]) -> None:
        """Take the lines whose jobs this worker runs."""
        self._ctx = ctx
        self._pool = pool
        self._enqueue = pool.register_script(_ENQUEUE)
        now = ctx.now()
        # What was due before the start is no concern of ours, unless the line says so; see also _catch_up.
        self._hands = [
            _Hand(line, line.timetable, None if line.at_start else line.timetable.latest(now))
            for line in lines
            if line.timetable is not None
        ]

    async def run(self) -> None:
        """Tick for ever. While Redis is away instants are kept, and the last of each line is made up for."""
        catch_up_at = time.monotonic()
        while True:
            try:
                await self.tick()
                if time.monotonic() >= catch_up_at:
                    catch_up_at = time.monotonic() + CATCH_UP_S
                    await self.catch_up()
            except (RedisError, OSError, DatabaseUnavailable, asyncpg.PostgresError) as error:
                log.warning("tick_delayed", error=repr(error))
                await asyncio.sleep(1)
            await asyncio.sleep(LOOK_S)

    async def tick(self) -> None:
        """Enqueue what became due since the last look."""
        now = self._ctx.now()
        for hand in self._hands:
            instant = hand.timetable.latest(now)
            if instant != hand.seen:
                await self._announce(hand.line.job, instant)
                hand.seen = instant  # only now: had it failed, the next look would try again

    async def catch_up(self) -> None:
        """Enqueue what is due once a day and has not ended since it was: no worker was there, or Redis forgot."""
        daily = [hand for hand in self._hands if isinstance(hand.timetable, Daily)]
        if not daily:
            return
        async with self._ctx.connection() as conn:
            known = await facts.read_all(conn)
        now = self._ctx.now()
        for hand in daily:
            job, due = hand.line.job, hand.timetable.latest(now)
            _, fact = known.get(fact_name(job), (None, None))
            if fact is not None and now - due > _IN_TIME and _last_run(fact) < due.timestamp():
                queue = queue_key(queue_of(job))
                if await self._pool.enqueue_job(job.value, _job_id=cron_id(job), _queue_name=queue) is not None:
                    log.warning("job_missed", job=job.value, due=due.isoformat())

    async def _announce(self, job: Job, instant: datetime) -> None:
        now_ms = int(time.time() * 1000)
        payload = describe_job(job.value, (), {}, None, now_ms, serializer=serialize_job)
        await self._enqueue(
            keys=[
                f"znz:tick:{job}:{int(instant.timestamp() * 1000)}",
                job_key_prefix + cron_id(job),
                queue_key(queue_of(job)),
            ],
            args=[cron_id(job), payload, now_ms, _MARK_S * 1000, expires_extra_ms],
        )


def _last_run(fact: JsonObject) -> float:
    times = (fact.get("last_success"), fact.get("last_failure"))
    return max((float(at) for at in times if isinstance(at, int | float)), default=0.0)
