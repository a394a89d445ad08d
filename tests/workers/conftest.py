"""Worker processes, and a Valkey that the tests may restart."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving import ROOT
from workers.runner import QueueWorker
from workers.scheduling import Line
from zenzefi.context import Context, open_context
from zenzefi.devstack.valkey import EmbeddedValkey
from zenzefi.jobs import Queue
from zenzefi.settings import Settings


class WorkerProcess:
    """A worker as a process of its own, and what it has logged."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.process = process
        self._log_path = log_path

    @property
    def events(self) -> list[dict[str, Any]]:
        whole_lines = self._log_path.read_text().rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in whole_lines if line.startswith("{")]

    async def wait_for(self, event: str, *, timeout_s: float = 60, **members: object) -> dict[str, Any]:
        """Wait for a log line."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for logged in self.events:
                if logged["event"] == event and all(logged.get(name) == value for name, value in members.items()):
                    return logged
            assert self.process.poll() is None, self._log_path.read_text()
            await asyncio.sleep(0.02)
        raise AssertionError(f"no {event} {members} in {timeout_s} s:\n{self._log_path.read_text()}")

    async def end(self, signal_number: int, *, timeout_s: float = 30) -> float:
        """Send a signal; the seconds until the process was gone."""
        started = time.monotonic()
        self.process.send_signal(signal_number)
        await asyncio.to_thread(self.process.wait, timeout_s)
        return time.monotonic() - started


@contextmanager
def run_worker(env: dict[str, str], directory: Path, arguments: Sequence[str]) -> Iterator[WorkerProcess]:
    """`python ARGUMENTS…` as a worker; killed at the end if it still runs."""
    log_path = directory / f"worker-{time.monotonic_ns()}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **env},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield WorkerProcess(process, log_path)
    finally:
        process.kill()
        process.wait()


@contextmanager
def journal_worker(
    env: dict[str, str],
    directory: Path,
    *,
    queue: Queue = Queue.DEFAULT,
    claim_s: float = 30.0,
    redis_retries: int = 20,
) -> Iterator[WorkerProcess]:
    """A worker with the journal's job of a queue."""
    arguments = ["-m", "tests.workers.journal_worker", queue.value, str(claim_s), str(redis_retries)]
    with run_worker(env, directory, arguments) as worker:
        yield worker


@asynccontextmanager
async def worker_here(
    ctx: Context, *lines: Line, queue: Queue = Queue.DEFAULT, claim_s: float = 30.0, name: str = "here"
) -> AsyncIterator[QueueWorker]:
    """A worker in this process."""
    worker = QueueWorker(ctx, queue=queue, lines=lines, claim_s=claim_s)
    worker.name = name
    tasks = [asyncio.ensure_future(work) for work in (worker.main(), worker.keep_alive())]
    try:
        yield worker
    finally:
        for task in (*tasks, *worker.running.values()):
            task.cancel()
        await asyncio.gather(*tasks, *worker.running.values(), return_exceptions=True)
        await worker.take_leave()


async def until(is_so: Callable[[], Awaitable[bool]], *, timeout_s: float = 30) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(timeout_s):
        while True:
            if await is_so():
                return
            await asyncio.sleep(0.02)


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A Valkey that keeps what it holds over a restart."""
    server = EmbeddedValkey(tmp_path / "valkey", settings={"appendfsync": "always"})
    server.start()
    yield server
    server.stop()


@pytest.fixture
def worker_env(env: dict[str, str], own_valkey: EmbeddedValkey) -> dict[str, str]:
    """The variables of an installation on that Valkey."""
    redis = {"REDIS_HOST": own_valkey.host, "REDIS_PORT": str(own_valkey.port), "REDIS_DB": "0"}
    return {**env, **redis, "REDIS_PASSWORD": own_valkey.password}


@pytest.fixture
async def worker_ctx(worker_env: dict[str, str]) -> AsyncIterator[Context]:
    """A context on that Valkey."""
    async with open_context(Settings.from_env(worker_env)) as context:
        yield context
