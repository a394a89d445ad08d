"""A worker's own /metrics: what it has run, and how a second worker on the machine comes by the port."""

import asyncio
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from tests.support.exposition import Series, parse, total
from tests.workers.conftest import run_worker
from workers import outcomes
from zenzefi.context import Context
from zenzefi.devstack.ports import find_free_port
from zenzefi.errors import JsonObject
from zenzefi.infra import facts
from zenzefi.jobs import Job


async def scrape(port: int, *, timeout_s: float = 30) -> dict[Series, float]:
    async with asyncio.timeout(timeout_s), aiohttp.ClientSession() as client:
        while True:
            try:
                async with client.get(f"http://127.0.0.1:{port}/metrics") as response:
                    assert response.status == 200
                    return parse(await response.text())
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)


async def scrape_until(port: int, is_shown: Callable[[dict[Series, float]], bool]) -> dict[Series, float]:
    """The metrics once they show it."""
    async with asyncio.timeout(60):
        while True:
            samples = await scrape(port)
            if is_shown(samples):
                return samples
            await asyncio.sleep(0.05)


def facts_are_read(samples: dict[Series, float]) -> bool:
    return total(samples, "zenzefi_facts_read_timestamp_seconds") > 0


async def test_a_new_worker_tells_of_what_others_did_before_it(
    worker_env: dict[str, str], worker_ctx: Context, tmp_path: Path
) -> None:
    now = worker_ctx.now()  # an older finding would not replace that of another test
    yesterday = now - timedelta(days=1)
    # One that is not due before the test is over, at :07 or at :22.
    hourly = Job.PURGE_IDEMPOTENCY_KEYS if 15 <= now.minute < 30 else Job.PURGE_EXPIRED_LOGINS
    async with worker_ctx.connection() as conn:
        for job in (Job.INSPECT_LEDGER, hourly):
            document: JsonObject = {"last_success": yesterday.timestamp()}
            await facts.put(conn, name=outcomes.fact_name(job), document=document, at=now)
        await facts.put(conn, name="ledger", document={"imbalance": "-0.05", "faults": 3}, at=now)
    port = find_free_port()
    with run_worker(worker_env | {"WORKER_METRICS_PORT": str(port)}, tmp_path, ["-m", "workers"]) as worker:
        await worker.wait_for("job_done", job=Job.TAKE_SNAPSHOT.value)
        samples = await scrape_until(port, facts_are_read)
        await worker.end(signal.SIGKILL)
    # One of them is a job of the other queue, which this worker never runs.
    for job in (Job.INSPECT_LEDGER, hourly):
        last = total(samples, "zenzefi_job_last_success_timestamp_seconds", name=job)
        assert last == pytest.approx(yesterday.timestamp(), abs=0.01)
    assert total(samples, "zenzefi_ledger_imbalance_znc") == -0.05
    assert total(samples, "zenzefi_ledger_faults") == 3
    assert total(samples, "zenzefi_job_period_seconds", name=Job.INSPECT_LEDGER) == 86_400
    assert total(samples, "zenzefi_dependency_up", dependency="database") == 1
    assert {series for series in samples if series[0] == "zenzefi_jobs_total" and ("result", "failed") in series[1]}
    # The snapshot was taken since, or before an earlier test's worker was killed; in any case it has an age.
    assert "zenzefi_snapshot_timestamp_seconds" in {name for name, _ in samples}


async def test_worker_tells_of_its_jobs_and_a_second_one_takes_the_port_over(
    worker_env: dict[str, str], worker_ctx: Context, tmp_path: Path
) -> None:
    port = find_free_port()
    env = worker_env | {"WORKER_METRICS_PORT": str(port)}
    with run_worker(env, tmp_path, ["-m", "workers"]) as first:
        await first.wait_for("worker_started")
        asked_s = time.time()
        await worker_ctx.queue.enqueue(Job.END_EXPIRED_TOKENS)
        await first.wait_for("job_done", job=Job.END_EXPIRED_TOKENS.value)

        def success_is_shown(samples: dict[Series, float]) -> bool:
            # What was read from the database before the end of the job may be shown once more after it.
            last = total(samples, "zenzefi_job_last_success_timestamp_seconds", name=Job.END_EXPIRED_TOKENS)
            return last > asked_s - 2  # by the database's clock or the machine's

        samples = await scrape_until(port, success_is_shown)
        assert total(samples, "zenzefi_jobs_total", name=Job.END_EXPIRED_TOKENS, result="done") >= 1
        assert total(samples, "zenzefi_job_duration_seconds_count", name=Job.END_EXPIRED_TOKENS) >= 1
        assert total(samples, "process_start_time_seconds", process="0") <= time.time()
        with run_worker(env, tmp_path, ["-m", "workers"]) as second:
            refused = await second.wait_for("metrics_not_served")
            assert f"Port {port}" in refused["reason"]
            assert "WORKER_METRICS_PORT" in refused["reason"]
            await first.end(signal.SIGTERM)
            assert "zenzefi_jobs_total" in {name for name, _ in await scrape(port)}
            await second.end(signal.SIGTERM)
            assert second.process.returncode == 0
