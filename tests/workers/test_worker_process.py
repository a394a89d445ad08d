"""The worker as a process: it runs jobs, outlives Redis, reruns what a killed one left, and ends in order."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.servers import Cluster
from tests.workers.conftest import WorkerProcess, journal_worker, run_worker, until
from tests.workers.journal_worker import HEAVY_JOB, JOB, JOURNAL
from workers.schedule import schedule
from zenzefi.context import Context
from zenzefi.devstack.ports import find_free_port
from zenzefi.devstack.valkey import EmbeddedValkey
from zenzefi.errors import RedisUnavailable
from zenzefi.health.service import SNAPSHOT_KEY
from zenzefi.infra.queue import queue_state
from zenzefi.jobs import Job, Queue, queue_of
from zenzefi.settings import Settings

PROMPTLY_S = 15.0  # of what takes half a second; a job is waited for, and a lost Redis asked, for longer


async def _journal(ctx: Context, *, length: int, timeout_s: float = 60) -> list[bytes]:
    """The journal once it has that many lines."""
    deadline = time.monotonic() + timeout_s
    lines: object = []
    while time.monotonic() < deadline:
        try:
            lines = await ctx.redis.run("LRANGE", JOURNAL, 0, -1)
        except RedisUnavailable:
            lines = []
        assert isinstance(lines, list)
        if len(lines) >= length:
            return lines
        await asyncio.sleep(0.05)
    raise AssertionError(f"the journal has only {lines}")


async def _sleep_awake(seconds: int) -> None:
    """Sleep for so long, and for longer where the machine stands still meanwhile: the workers do, too."""
    for _ in range(10 * seconds):
        await asyncio.sleep(0.1)


def _health_runs(workers: Sequence[WorkerProcess], *, after: datetime) -> list[datetime]:
    """When any of these workers had looked at the service's health, since then."""
    done = [event for worker in workers for event in worker.events if event["event"] == "job_done"]
    ends = [datetime.fromisoformat(event["timestamp"]) for event in done if event["job"] == Job.REFRESH_HEALTH]
    return [end for end in ends if end > after]


async def _keys(ctx: Context, pattern: str) -> list[bytes]:
    keys = await ctx.redis.run("KEYS", pattern)
    assert isinstance(keys, list)
    return keys


async def test_every_scheduled_job_runs(
    worker_env: dict[str, str], worker_ctx: Context, settings: Settings, tmp_path: Path
) -> None:
    lines = [line for line in schedule(settings) if line.timetable is not None]
    with ExitStack() as stack:
        workers = {
            queue: stack.enter_context(run_worker(worker_env, tmp_path, ["-m", "zenzefi", "worker", "--queue", queue]))
            for queue in Queue
        }
        for worker in workers.values():
            await worker.wait_for("worker_started")
        for line in lines:
            await worker_ctx.queue.enqueue(line.job)
        for line in lines:
            done = await workers[queue_of(line.job)].wait_for("job_done", job=line.job.value)
            assert done["job_try"] == 1
        assert await worker_ctx.redis.run("GET", SNAPSHOT_KEY)
        state = await queue_state(worker_ctx)
        assert {queue: of_it.workers for queue, of_it in state.items()} == dict.fromkeys(Queue, 1)
        for queue, worker in workers.items():
            assert len(await _keys(worker_ctx, f"znz:worker:{queue}:*")) == 1
            assert await worker.end(signal.SIGTERM) < PROMPTLY_S
            assert worker.process.returncode == 0
            assert await _keys(worker_ctx, f"znz:worker:{queue}:*") == []
            assert (await queue_state(worker_ctx))[queue].workers == 0


async def test_four_workers_have_one_schedule_that_outlives_flushall_and_kill(
    worker_env: dict[str, str], worker_ctx: Context, tmp_path: Path
) -> None:
    env = worker_env | {"HEALTH_CHECK_INTERVAL": "1"}
    with ExitStack() as stack:
        workers = [stack.enter_context(run_worker(env, tmp_path, ["-m", "workers"])) for _ in range(4)]
        for worker in workers:
            await worker.wait_for("worker_started")
        started = worker_ctx.now()
        await _sleep_awake(2)

        async def runs_have_begun() -> bool:
            return bool(_health_runs(workers, after=started))

        await until(runs_have_begun)
        await workers[0].end(signal.SIGKILL)
        await worker_ctx.redis.run("FLUSHALL")
        killed = worker_ctx.now()
        await _sleep_awake(3)

        async def runs_go_on() -> bool:
            return len(_health_runs(workers, after=killed)) >= 2

        await until(runs_go_on)
        runs = _health_runs(workers, after=started)
        passed_s = (worker_ctx.now() - started).total_seconds()
    # In so many seconds there may be one instant more. One run more each is of the instant before, and of the one whose
    # mark was flushed.
    assert len(runs) <= passed_s + 3


@pytest.mark.parametrize("queue", Queue)
async def test_a_job_of_a_killed_worker_runs_again_soon_however_long_it_may_take(
    worker_env: dict[str, str], worker_ctx: Context, tmp_path: Path, queue: Queue
) -> None:
    job = JOB if queue is Queue.DEFAULT else HEAVY_JOB
    may_end = tmp_path / "may-end"
    await worker_ctx.queue.enqueue(job, str(may_end))
    with journal_worker(worker_env, tmp_path, queue=queue, claim_s=2) as killed:
        assert await _journal(worker_ctx, length=1) == [b"begun"]
        with journal_worker(worker_env, tmp_path, queue=queue, claim_s=2) as worker:
            await killed.end(signal.SIGKILL)
            may_end.touch()
            assert await _journal(worker_ctx, length=3) == [b"begun", b"begun", b"ended"]
            done = await worker.wait_for("job_done", job=job.value)
            assert done["job_try"] == 2


async def test_a_restart_of_redis_interrupts_no_job(
    worker_env: dict[str, str], worker_ctx: Context, own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    may_end = tmp_path / "may-end"
    with journal_worker(worker_env, tmp_path) as worker:
        await worker.wait_for("worker_started")
        await worker_ctx.queue.enqueue(JOB, str(may_end))
        await _journal(worker_ctx, length=1)
        own_valkey.stop()
        await asyncio.sleep(0.5)
        own_valkey.start()
        may_end.touch()
        assert await _journal(worker_ctx, length=2) == [b"begun", b"ended"]
        await worker.wait_for("job_done")
        await worker_ctx.queue.enqueue(JOB, str(may_end))
        assert await _journal(worker_ctx, length=4) == [b"begun", b"ended"] * 2
        assert await worker.end(signal.SIGTERM) < PROMPTLY_S
        assert worker.process.returncode == 0


async def test_a_longer_absence_of_redis_ends_neither_worker_nor_job(
    worker_env: dict[str, str], worker_ctx: Context, own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    may_end = tmp_path / "may-end"
    with journal_worker(worker_env, tmp_path, queue=Queue.HEAVY, claim_s=1, redis_retries=0) as worker:
        await worker.wait_for("worker_started")
        await worker_ctx.queue.enqueue(HEAVY_JOB, str(may_end))
        await _journal(worker_ctx, length=1)
        own_valkey.stop()
        await worker.wait_for("queue_unreachable")
        await asyncio.sleep(1.2)  # longer than a claim lasts
        own_valkey.start()
        await worker.wait_for("queue_reachable_again")
        may_end.touch()
        await worker.wait_for("job_done")
        await worker_ctx.queue.enqueue(HEAVY_JOB, str(may_end))
        assert await _journal(worker_ctx, length=4) == [b"begun", b"ended"] * 2


async def test_a_worker_waits_for_redis_to_come(worker_env: dict[str, str], tmp_path: Path) -> None:
    env = worker_env | {"REDIS_PORT": str(find_free_port())}
    with journal_worker(env, tmp_path, redis_retries=0) as worker:
        await worker.wait_for("queue_unreachable")
        assert await worker.end(signal.SIGTERM) < PROMPTLY_S
        assert worker.process.returncode == 0


async def test_a_running_job_is_waited_for(worker_env: dict[str, str], worker_ctx: Context, tmp_path: Path) -> None:
    may_end = tmp_path / "may-end"
    with journal_worker(worker_env | {"DRAIN_TIMEOUT": "30"}, tmp_path) as worker:
        await worker.wait_for("worker_started")
        await worker_ctx.queue.enqueue(JOB, str(may_end))
        await _journal(worker_ctx, length=1)
        worker.process.send_signal(signal.SIGTERM)
        await worker.wait_for("worker_draining")
        may_end.touch()
        await asyncio.to_thread(worker.process.wait, 30)
        assert worker.process.returncode == 0
    assert await _journal(worker_ctx, length=2) == [b"begun", b"ended"]


async def test_a_job_that_outlasts_the_drain_is_queued_again(
    worker_env: dict[str, str], worker_ctx: Context, tmp_path: Path
) -> None:
    may_end = tmp_path / "may-end"
    with journal_worker(worker_env | {"DRAIN_TIMEOUT": "0.5"}, tmp_path) as worker:
        await worker.wait_for("worker_started")
        await worker_ctx.queue.enqueue(JOB, str(may_end))
        await _journal(worker_ctx, length=1)
        await worker.end(signal.SIGTERM)  # the job itself would never end
        assert worker.process.returncode == 0
    may_end.touch()
    with journal_worker(worker_env, tmp_path) as worker:
        assert await _journal(worker_ctx, length=3) == [b"begun", b"begun", b"ended"]


async def test_a_hung_redis_does_not_keep_a_worker_alive(
    worker_env: dict[str, str], own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    with journal_worker(worker_env, tmp_path) as worker:
        await worker.wait_for("worker_started")
        os.kill(own_valkey.child.pid, signal.SIGSTOP)
        try:
            assert await worker.end(signal.SIGTERM) < PROMPTLY_S
            assert worker.process.returncode == 0
        finally:
            os.kill(own_valkey.child.pid, signal.SIGCONT)


async def test_a_worker_waits_for_the_database_to_come(
    worker_env: dict[str, str], cluster: Cluster, tmp_path: Path
) -> None:
    name = f"zenzefi_test_{cluster.run}_{uuid4().hex[:8]}"
    env = worker_env | {"POSTGRES_DB": name}
    with (
        run_worker(env, tmp_path, ["-m", "zenzefi", "worker"]) as first,
        run_worker(env, tmp_path, ["-m", "workers", "--queue", "heavy"]) as second,
    ):
        awaited = await first.wait_for("database_awaited")
        assert name in awaited["reason"]
        await second.wait_for("database_awaited")
        assert await second.end(signal.SIGTERM) < PROMPTLY_S
        assert second.process.returncode == 0
        await cluster.clone(name)
        try:
            await first.wait_for("worker_started")
            assert await first.end(signal.SIGTERM) < PROMPTLY_S
            assert first.process.returncode == 0
        finally:
            await cluster.drop(name)
