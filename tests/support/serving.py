"""The product as it is run: `zenzefi serve` as a process of its own, on ports of its own."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from zenzefi.devstack.ports import find_free_port

ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 60.0
ENDED_TIMEOUT_S = 60.0  # of a test that is about its end
STOP_TIMEOUT_S = 10.0  # of one that is not
# What a process does without an answer of Redis is shown where Redis is taken away. Everywhere else a machine that is
# too busy for Redis to answer within the default deadline must not pass for that.
PATIENT = {"REDIS_DEADLINE": "10"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running `zenzefi serve`."""

    process: subprocess.Popen[bytes]
    url: str
    internal_url: str
    log_path: Path

    @property
    def log(self) -> str:
        """All that it has logged so far."""
        return self.log_path.read_text(errors="replace")

    async def stop(self) -> str:
        """End it, and give all that it has logged: the lines of requests are written a moment after them."""
        self.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self.process.wait, ENDED_TIMEOUT_S)
        return self.log


@asynccontextmanager
async def serve(env: Mapping[str, str], *, processes: int = 2) -> AsyncIterator[Served]:
    """Start `zenzefi serve` with these variables, wait until it is ready, and stop it at the end."""
    port, internal_port = find_free_port(), find_free_port()
    with tempfile.NamedTemporaryFile(prefix="zenzefi-serve-", suffix=".log", delete=False) as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "zenzefi", "serve", "--processes", str(processes)],
            env={**os.environ, **env, "PORT": str(port), "INTERNAL_PORT": str(internal_port)},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    log_path = Path(log.name)
    served = Served(
        process=process,
        url=f"http://127.0.0.1:{port}",
        internal_url=f"http://127.0.0.1:{internal_port}",
        log_path=log_path,
    )
    try:
        await _until_ready(served)
        yield served
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(process.wait, STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        log_path.unlink()


async def _until_ready(served: Served) -> None:
    async with asyncio.timeout(READY_TIMEOUT_S), aiohttp.ClientSession() as client:
        while True:
            if served.process.poll() is not None:
                raise AssertionError(f"zenzefi serve ended at once:\n{served.log}")
            try:
                async with client.get(f"{served.internal_url}/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
