"""The worker as a process: it runs jobs, outlives Redis, reruns what a killed one left, and ends in order."""

import asyncio
import os
import signal
import time
from pathlib import Path

from tests.workers.conftest import journal_worker, run_worker
from tests.workers.journal_worker import JOB, JOURNAL
from zenzefi.context import Context
from zenzefi.devstack.ports import find_free_port
from zenzefi.devstack.valkey import EmbeddedValkey
from zenzefi.errors import RedisUnavailable
from zenzefi.health.service import SNAPSHOT_KEY
from zenzefi.jobs import WORKER_KEY_PREFIX, Job


async def _journal(ctx: Context, *, length: int, timeout_s: float = 20) -> list[bytes]:
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


async def _keys(ctx: Context, pattern: str) -> list[bytes]:
    keys = await ctx.redis.run("KEYS", pattern)
    assert isinstance(keys, list)
    return keys


async def test_every_job_runs(worker_env: dict[str, str], worker_ctx: Context, tmp_path: Path) -> None:
    with run_worker(worker_env, tmp_path, ["-m", "zenzefi", "worker"]) as worker:
        await worker.wait_for("worker_started")
        for job in Job:
            assert await worker_ctx.queue.enqueue(job)
        for job in Job:
            done = await worker.wait_for("job_done", job=job.value)
            assert done["job_try"] == 1
        assert await worker_ctx.redis.run("GET", SNAPSHOT_KEY)
        assert len(await _keys(worker_ctx, f"{WORKER_KEY_PREFIX}*")) == 1
        assert await worker.end(signal.SIGTERM) < 5
        assert worker.process.returncode == 0
        assert await _keys(worker_ctx, f"{WORKER_KEY_PREFIX}*") == []


async def test_health_is_refreshed_at_its_interval(
    worker_env: dict[str, str], worker_ctx: Context, tmp_path: Path
) -> None:
    env = worker_env | {"HEALTH_CHECK_INTERVAL": "1"}
    with (
        run_worker(env, tmp_path, ["-m", "workers"]) as first,
        run_worker(env, tmp_path, ["-m", "workers"]) as second,
    ):
        for worker in (first, second):
            await worker.wait_for("worker_started")
        started = worker_ctx.now()
        await asyncio.sleep(4)
        events = [*first.events, *second.events]
    passed_s = (worker_ctx.now() - started).total_seconds()
    runs = [event["job_id"] for event in events if event["event"] == "job_done" and event["job"] == Job.REFRESH_HEALTH]
    assert len(runs) == len(set(runs)), "each instant belongs to one worker"
    # Each of the two also runs it once when it starts.
    assert 3 <= len(runs) <= passed_s + 4


async def test_a_job_of_a_killed_worker_runs_again(
    worker_env: dict[str, str], worker_ctx: Context, tmp_path: Path
) -> None:
    await worker_ctx.queue.enqueue(JOB, 1)
    with journal_worker(worker_env, tmp_path, timeout_s=2) as killed:
        assert await _journal(worker_ctx, length=1) == [b"begun"]
        await killed.end(signal.SIGKILL)
    with journal_worker(worker_env, tmp_path, timeout_s=2) as worker:
        assert await _journal(worker_ctx, length=3) == [b"begun", b"begun", b"ended"]
        done = await worker.wait_for("job_done", job=JOB.value)
        assert done["job_try"] == 2


async def test_a_restart_of_redis_interrupts_no_job(
    worker_env: dict[str, str], worker_ctx: Context, own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    with journal_worker(worker_env, tmp_path) as worker:
        await worker.wait_for("worker_started")
        await worker_ctx.queue.enqueue(JOB, 2)
        await _journal(worker_ctx, length=1)
        own_valkey.stop()
        await asyncio.sleep(0.5)
        own_valkey.start()
        assert await _journal(worker_ctx, length=2) == [b"begun", b"ended"]
        await worker.wait_for("job_done")
        await worker_ctx.queue.enqueue(JOB, 0)
        assert await _journal(worker_ctx, length=4) == [b"begun", b"ended"] * 2
        assert await worker.end(signal.SIGTERM) < 5
        assert worker.process.returncode == 0


async def test_a_longer_absence_of_redis_does_not_end_the_worker(
    worker_env: dict[str, str], worker_ctx: Context, own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    with journal_worker(worker_env, tmp_path, redis_retries=0) as worker:
        await worker.wait_for("worker_started")
        own_valkey.stop()
        await worker.wait_for("worker_interrupted")
        await asyncio.sleep(1.5)
        own_valkey.start()
        await worker_ctx.queue.enqueue(JOB, 0)
        assert await _journal(worker_ctx, length=2) == [b"begun", b"ended"]


async def test_a_worker_waits_for_redis_to_come(worker_env: dict[str, str], tmp_path: Path) -> None:
    env = worker_env | {"REDIS_PORT": str(find_free_port())}
    with journal_worker(env, tmp_path, redis_retries=0) as worker:
        await worker.wait_for("worker_interrupted")
        assert await worker.end(signal.SIGTERM) < 5
        assert worker.process.returncode == 0


async def test_a_running_job_is_waited_for(worker_env: dict[str, str], worker_ctx: Context, tmp_path: Path) -> None:
    with journal_worker(worker_env | {"DRAIN_TIMEOUT": "10"}, tmp_path) as worker:
        await worker.wait_for("worker_started")
        await worker_ctx.queue.enqueue(JOB, 2)
        await _journal(worker_ctx, length=1)
        await worker.end(signal.SIGTERM)
        assert worker.process.returncode == 0
    assert await _journal(worker_ctx, length=2) == [b"begun", b"ended"]


async def test_a_job_that_outlasts_the_drain_is_queued_again(
    worker_env: dict[str, str], worker_ctx: Context, tmp_path: Path
) -> None:
    with journal_worker(worker_env | {"DRAIN_TIMEOUT": "0.5"}, tmp_path) as worker:
        await worker.wait_for("worker_started")
        await worker_ctx.queue.enqueue(JOB, 3)
        await _journal(worker_ctx, length=1)
        assert await worker.end(signal.SIGTERM) < 3
        assert worker.process.returncode == 0
    with journal_worker(worker_env, tmp_path) as worker:
        assert await _journal(worker_ctx, length=3) == [b"begun", b"begun", b"ended"]


async def test_a_hung_redis_does_not_keep_a_worker_alive(
    worker_env: dict[str, str], own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    with journal_worker(worker_env, tmp_path) as worker:
        await worker.wait_for("worker_started")
        os.kill(own_valkey.child.pid, signal.SIGSTOP)
        try:
            assert await worker.end(signal.SIGTERM) < 5
            assert worker.process.returncode == 0
        finally:
            os.kill(own_valkey.child.pid, signal.SIGCONT)


async def test_a_worker_without_a_database_says_so_in_one_line(worker_env: dict[str, str], tmp_path: Path) -> None:
    env = worker_env | {"POSTGRES_PORT": str(find_free_port())}
    with run_worker(env, tmp_path, ["-m", "zenzefi", "worker"]) as worker:
        assert await asyncio.to_thread(worker.process.wait, 20) == 1
        output = next(tmp_path.glob("worker-*.log")).read_text()
    assert output.startswith("zenzefi worker: PostgreSQL at ")
    assert len(output.splitlines()) == 1
