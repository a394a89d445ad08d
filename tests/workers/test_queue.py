"""What reaches a queue and what becomes of it: its own queue, its id, JSON only, one worker at a time, loud ends."""

import asyncio
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.workers.conftest import until, worker_here
from workers.scheduling import MAX_TRIES, on_demand
from zenzefi.context import Context
from zenzefi.devstack.ports import find_free_port
from zenzefi.errors import RedisUnavailable
from zenzefi.infra import facts
from zenzefi.infra.queue import JobQueue, queue_key, queue_state
from zenzefi.jobs import Job, Queue

JOB, HEAVY_JOB = Job.PURGE_SESSIONS, Job.PRUNE_BACKUPS
KEY = queue_key(Queue.DEFAULT)


class _Notes:
    """A job that notes its runs and ends when it may."""

    def __init__(self, *, hold: bool = False) -> None:
        self.begun: list[str | int] = []
        self.ended = 0
        self.may_end = asyncio.Event()
        if not hold:
            self.may_end.set()

    async def run(self, _ctx: Context, note: str | int = "") -> None:
        self.begun.append(note)
        await self.may_end.wait()
        self.ended += 1

    async def has_begun(self) -> bool:
        return bool(self.begun)


async def _is_empty(ctx: Context) -> bool:
    return await ctx.redis.run("ZCARD", KEY) == 0


async def test_a_job_waits_in_its_own_queue(worker_ctx: Context) -> None:
    for job, queue in ((JOB, Queue.DEFAULT), (HEAVY_JOB, Queue.HEAVY)):
        job_id = await worker_ctx.queue.enqueue(job)
        assert await worker_ctx.redis.run("ZRANGE", queue_key(queue), 0, -1) == [job_id.encode()]


async def test_an_id_is_taken_while_its_job_waits_or_runs_and_free_once_it_is_done(worker_ctx: Context) -> None:
    notes = _Notes(hold=True)
    assert [await worker_ctx.queue.enqueue(JOB, note, job_id="mine") for note in (1, 2)] == ["mine", "mine"]
    async with worker_here(worker_ctx, on_demand(JOB, notes.run)):
        await until(notes.has_begun)
        await worker_ctx.queue.enqueue(JOB, 3, job_id="mine")
        notes.may_end.set()
        await until(lambda: _is_empty(worker_ctx))
        await worker_ctx.queue.enqueue(JOB, 4, job_id="mine")
        await until(lambda: _is_empty(worker_ctx))
    assert notes.begun == [1, 4]


async def test_state_tells_what_is_due_and_not_what_runs(worker_ctx: Context) -> None:
    notes = _Notes(hold=True)
    async with worker_here(worker_ctx, on_demand(JOB, notes.run), name="one"):
        await worker_ctx.queue.enqueue(JOB)
        await until(notes.has_begun)
        state = await queue_state(worker_ctx)
        assert (state[Queue.DEFAULT].waiting, state[Queue.DEFAULT].oldest_age_s) == (0, 0.0)
        assert (state[Queue.DEFAULT].workers, state[Queue.HEAVY].workers) == (1, 0)
        await worker_ctx.queue.enqueue(HEAVY_JOB)
        await worker_ctx.redis.run("ZADD", queue_key(Queue.HEAVY), 1e15, "not-due-yet")
        await asyncio.sleep(0.2)
        heavy = (await queue_state(worker_ctx))[Queue.HEAVY]
        assert heavy.waiting == 1
        assert 0.05 <= heavy.oldest_age_s < 30
        notes.may_end.set()
    assert (await queue_state(worker_ctx))[Queue.DEFAULT].workers == 0


async def test_a_claim_lasts_as_long_as_its_job(worker_ctx: Context) -> None:
    notes = _Notes(hold=True)
    line = on_demand(JOB, notes.run)
    async with worker_here(worker_ctx, line, claim_s=3.0, name="one"), worker_here(worker_ctx, line, name="two"):
        await worker_ctx.queue.enqueue(JOB)
        await until(notes.has_begun)
        await asyncio.sleep(4)
        assert len(notes.begun) == 1, "the other worker has not taken it"
        await worker_ctx.redis.run("FLUSHALL")
        await asyncio.sleep(0.8)
        notes.may_end.set()
        await until(lambda: _is_empty(worker_ctx))
    assert (len(notes.begun), notes.ended) == (1, 1)


class _Trap:
    """What runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


async def test_a_pickle_is_refused_and_told_of(worker_ctx: Context, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    evil = pickle.dumps({"t": None, "f": JOB.value, "a": (_Trap(trap),), "k": {}, "et": 0})
    await worker_ctx.redis.run("SET", "arq:job:evil", evil)
    await worker_ctx.redis.run("ZADD", KEY, 1, "evil")
    notes = _Notes()
    with capture_logs() as logs:
        async with worker_here(worker_ctx, on_demand(JOB, notes.run)):
            await until(lambda: _is_empty(worker_ctx))
            await worker_ctx.queue.enqueue(JOB)
            await until(notes.has_begun)
    assert not trap.exists()
    (dropped,) = [line for line in logs if line["event"] == "job_dropped"]
    assert (dropped["log_level"], dropped["job_id"]) == ("error", "evil")
    pickle.loads(evil)
    assert trap.exists(), "the trap works"


async def test_a_job_that_keeps_killing_its_worker_is_dropped_loudly(worker_ctx: Context) -> None:
    await worker_ctx.queue.enqueue(HEAVY_JOB, job_id="deadly")
    await worker_ctx.redis.run("SET", "arq:retry:deadly", MAX_TRIES)
    notes = _Notes()
    with capture_logs() as logs:
        async with worker_here(worker_ctx, on_demand(HEAVY_JOB, notes.run), queue=Queue.HEAVY):
            key = queue_key(Queue.HEAVY)

            async def is_gone() -> bool:
                return await worker_ctx.redis.run("ZCARD", key) == 0

            await until(is_gone)
    (dropped,) = [line for line in logs if line["event"] == "job_dropped"]
    assert dropped["job"] == HEAVY_JOB
    assert notes.begun == []
    async with worker_ctx.connection() as conn:
        _, fact = (await facts.read_all(conn))[f"job:{HEAVY_JOB}"]
    assert "retries exceeded" in str(fact["result"])
    assert isinstance(fact["last_failure"], float)


async def test_a_server_that_is_away_is_the_callers_to_handle(worker_ctx: Context) -> None:
    queue = JobQueue(dataclasses.replace(worker_ctx.settings, queue_redis_port=find_free_port()))
    with pytest.raises(RedisUnavailable):
        await queue.enqueue(JOB)
    with pytest.raises(RedisUnavailable):
        await queue.read_state()
    await queue.aclose()
