"""arq's worker for one queue, with what it lacks: patience with Redis, and claims that die with their worker.

arq lets a job of a killed worker run again only when the longest timeout of all jobs has passed, which for heavy ones
is hours. Here a claim on a job lasts for CLAIM_S and is renewed while the job runs. arq's cron jobs are not used
either: workers.ticking says why.
"""

import asyncio
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import structlog
from arq.constants import in_progress_key_prefix
from arq.worker import Worker, func
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError

from workers import outcomes
from workers.scheduling import CONTEXT, MAX_TRIES, Line, observed
from zenzefi.context import Context
from zenzefi.infra.instruments import JOBS
from zenzefi.infra.queue import (
    DEAD_AFTER_S,
    HEARTBEAT_S,
    deserialize_job,
    open_queue_client,
    queue_key,
    serialize_job,
    workers_key,
)
from zenzefi.jobs import Job, Queue

# Heavy jobs use a core and much of the disk's bandwidth each; the second place keeps the short ones among them going.
MAX_JOBS: Final = {Queue.DEFAULT: 10, Queue.HEAVY: 2}
# A job of a killed worker runs again after this time. A worker that hangs for longer finds its jobs run twice.
CLAIM_S: Final = 30.0
# A command is tried again for some 15 s, which hides a restart of Redis.
REDIS_RETRIES = 20
POLL_S: Final = 0.5
_PAUSE_S: Final = 1.0
# arq's own timeout must come later than ours, which is told apart from a cancellation.
_TIMEOUT_MARGIN_S: Final = 60.0

# KEYS: the queue, the job's claim. ARGV: the job's id, now in ms, how long a claim lasts in ms, who claims.
# Returns when the job was due, or nothing where it is not due yet or somebody else's. A worker that missed the answer
# may ask again.
_CLAIM: Final = """
local due = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not due or tonumber(due) > tonumber(ARGV[2]) then return nil end
if redis.call('SET', KEYS[2], ARGV[4], 'NX', 'PX', ARGV[3]) or redis.call('GET', KEYS[2]) == ARGV[4] then return due end
return nil
"""

log = structlog.get_logger("zenzefi.worker")


class QueueWorker(Worker):
    """Runs the jobs of one queue until it is cancelled, through any outage of Redis; its jobs go on meanwhile."""

    def __init__(self, ctx: Context, *, queue: Queue, lines: Sequence[Line], claim_s: float = CLAIM_S) -> None:
        """Take the jobs as the schedule names them."""
        self.queue = queue
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._claim_ms = int(claim_s * 1000)
        self._beat_s = min(HEARTBEAT_S, claim_s / 6)
        self._context = ctx
        self._is_cut_off = False
        super().__init__(
            functions=[
                func(observed(line), name=line.job.value, timeout=line.timeout_s + _TIMEOUT_MARGIN_S) for line in lines
            ],
            queue_name=queue_key(queue),
            redis_pool=open_queue_client(
                ctx.settings, retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), REDIS_RETRIES)
            ),
            ctx={CONTEXT: ctx},
            handle_signals=False,
            max_jobs=MAX_JOBS[queue],
            max_tries=MAX_TRIES,
            poll_delay=POLL_S,
            keep_result=0,  # a kept result would block its job id
            health_check_interval=HEARTBEAT_S,
            health_check_key=f"znz:worker:{queue}:{self.name}",  # one for all would be deleted by the first that ends
            job_serializer=serialize_job,
            job_deserializer=deserialize_job,
            log_results=False,
        )
        self._claim = self.pool.register_script(_CLAIM)

    @property
    def running(self) -> dict[str, "asyncio.Task[Any]"]:
        """The jobs that run now, by id."""
        return {job_id: task for job_id, task in self.tasks.items() if not task.done()}

    async def main(self) -> None:
        """Poll for ever: arq's own would end with the first error, and all its jobs with it."""
        while True:
            try:
                await self._poll_iteration()
                self._note_reachable(error=None)
            except (RedisError, OSError) as error:
                self._note_reachable(error=error)
                await asyncio.sleep(_PAUSE_S)
            except Exception:
                log.exception("poll_failed")
                await asyncio.sleep(_PAUSE_S)
            await asyncio.sleep(self.poll_delay_s)

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Start what nobody runs, while there is a place. (arq's own loses a place each time that Redis fails it.)"""
        for job_id in (raw.decode() for raw in job_ids):
            if len(self.running) >= self.max_jobs:
                return
            if job_id in self.running:  # its claim may have been lost with Redis' memory
                continue
            keys = [self.queue_name, in_progress_key_prefix + job_id]
            args: list[str | int] = [job_id, int(time.time() * 1000), self._claim_ms, self.name]
            due_ms = await self._claim(keys=keys, args=args)
            if due_ms is not None:
                self.tasks[job_id] = self.loop.create_task(self.run_job(job_id, int(float(due_ms))))

    async def keep_alive(self) -> None:
        """Renew the claims on the jobs that run, and tell that this worker lives."""
        while True:
            try:
                await self._beat()
            except (RedisError, OSError) as error:
                self._note_reachable(error=error)
            await asyncio.sleep(self._beat_s)

    async def _beat(self) -> None:
        now, key = time.time(), workers_key(self.queue)
        async with self.pool.pipeline(transaction=False) as pipe:
            for job_id in self.running:
                pipe.set(in_progress_key_prefix + job_id, self.name, px=self._claim_ms)
            pipe.zadd(key, {self.name: now})
            pipe.zremrangebyscore(key, "-inf", now - 10 * DEAD_AFTER_S)
            await pipe.execute()

    async def finish_job(self, *arguments: Any, **more: Any) -> None:
        """Write down how a job ended, however long Redis is away: else it would run again."""
        await self._insist(lambda: super(QueueWorker, self).finish_job(*arguments, **more))

    async def finish_failed_job(self, job_id: str, result_data: bytes | None) -> None:
        """Drop a job that cannot run, and say so: its tries are used up, or nobody understands it."""
        what: dict[str, Any] = json.loads(result_data) if result_data else {}
        name, reason = str(what.get("f")), str(what.get("r"))
        log.error("job_dropped", job=name, job_id=job_id, reason=reason, tries=what.get("t"))
        JOBS.labels(name, "failed").inc()
        if name in set(Job):
            await outcomes.keep(self._context, Job(name), succeeded=False, result=reason, duration_s=0.0)
        await self._insist(lambda: super(QueueWorker, self).finish_failed_job(job_id, result_data))

    async def _insist(self, write: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await write()
            except (RedisError, OSError) as error:
                self._note_reachable(error=error)
                await asyncio.sleep(_PAUSE_S)

    def _note_reachable(self, *, error: Exception | None) -> None:
        if error is not None and not self._is_cut_off:
            log.warning("queue_unreachable", error=repr(error), again_in_s=_PAUSE_S)
        if error is None and self._is_cut_off:
            log.info("queue_reachable_again")
        self._is_cut_off = error is not None

    async def take_leave(self) -> None:
        """Say that this worker is no more, and close its connections."""
        try:
            async with self.pool.pipeline(transaction=False) as pipe:
                pipe.delete(self.health_check_key)
                pipe.zrem(workers_key(self.queue), self.name)
                await pipe.execute()
        finally:
            await self.pool.aclose()
