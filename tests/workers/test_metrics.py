"""A worker's own /metrics: what it has run, and how a second worker on the machine comes by the port."""

import asyncio
import signal
import time
from pathlib import Path

import aiohttp

from tests.support.exposition import Series, parse, total
from tests.workers.conftest import run_worker
from zenzefi.context import Context
from zenzefi.devstack.ports import find_free_port
from zenzefi.jobs import Job


async def scrape(port: int, *, timeout_s: float = 10) -> dict[Series, float]:
    async with asyncio.timeout(timeout_s), aiohttp.ClientSession() as client:
        while True:
            try:
                async with client.get(f"http://127.0.0.1:{port}/metrics") as response:
                    assert response.status == 200
                    return parse(await response.text())
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)


async def test_worker_tells_of_its_jobs_and_a_second_one_takes_the_port_over(
    worker_env: dict[str, str], worker_ctx: Context, tmp_path: Path
) -> None:
    port = find_free_port()
    env = worker_env | {"WORKER_METRICS_PORT": str(port)}
    with run_worker(env, tmp_path, ["-m", "workers"]) as first:
        await first.wait_for("worker_started")
        await worker_ctx.queue.enqueue(Job.END_EXPIRED_TOKENS)
        done = await first.wait_for("job_done", job=Job.END_EXPIRED_TOKENS.value)
        samples = await scrape(port)
        assert total(samples, "zenzefi_jobs_total", name=Job.END_EXPIRED_TOKENS, result="done") >= 1
        assert total(samples, "zenzefi_job_duration_seconds_count", name=Job.END_EXPIRED_TOKENS) >= 1
        last = total(samples, "zenzefi_job_last_success_timestamp_seconds", name=Job.END_EXPIRED_TOKENS)
        assert 0 <= time.time() - last < 20, done
        assert total(samples, "process_start_time_seconds", process="0") <= time.time()
        with run_worker(env, tmp_path, ["-m", "workers"]) as second:
            refused = await second.wait_for("metrics_not_served")
            assert f"Port {port}" in refused["reason"]
            assert "WORKER_METRICS_PORT" in refused["reason"]
            await first.end(signal.SIGTERM)
            assert "zenzefi_jobs_total" in {name for name, _ in await scrape(port)}
            await second.end(signal.SIGTERM)
            assert second.process.returncode == 0
