"""Programs that a benchmark measures or needs: the product's processes, and what it is held against."""

import asyncio
import os
import re
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

from loadtest.figures import Bench
from zenzefi.devstack.ports import LOOPBACK, find_free_port
from zenzefi.devstack.process import ChildProcess, Command

READY_TIMEOUT_S = 60.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running server: the processes that answer, without a supervisor of theirs."""

    port: int
    internal_port: int | None
    processes: tuple[psutil.Process, ...]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{LOOPBACK}:{self.port}"

    def cpu_s(self) -> float:
        """The CPU time that all of it has taken so far, the kernel's share included."""
        times = [process.cpu_times() for process in self.processes]
        return sum(time.user + time.system for time in times)

    def spent_s(self, *, since_s: float) -> float:
        """The CPU time since ``cpu_s`` said so much; less than a tick of the kernel's clock counts as one."""
        return max(self.cpu_s() - since_s, _TICK_S)

    def memory_bytes(self) -> list[int]:
        """The resident memory of each process."""
        return [process.memory_info().rss for process in self.processes]

    def descriptors(self) -> list[int]:
        """The open files and sockets of each process."""
        return [process.num_fds() for process in self.processes]

    async def metric(self, name: str) -> list[tuple[str, float]]:
        """The series of a metric: what stands between the braces, and the value."""
        text = await asyncio.to_thread(self._metrics)
        found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)", text, re.MULTILINE)
        return [(labels, float(value)) for labels, value in found]

    def _metrics(self) -> str:
        with urllib.request.urlopen(
            f"http://{LOOPBACK}:{self.internal_port}/metrics", timeout=READY_TIMEOUT_S
        ) as response:
            text: str = response.read().decode()
        return text


@asynccontextmanager
async def serve(
    bench: Bench, environment: Mapping[str, str], *, processes: int, name: str = "web"
) -> AsyncIterator[Served]:
    """The product as it is run: `zenzefi serve` with so many processes."""
    port, internal_port = find_free_port(), find_free_port()
    variables = {**environment, "PORT": str(port), "INTERNAL_PORT": str(internal_port)}
    arguments = ["zenzefi", "serve", "--processes", str(processes)]
    async with program(bench, name, arguments, variables, internal_port) as child:
        await _until_ready(internal_port)
        workers = tuple(psutil.Process(child.pid).children())
        yield Served(port=port, internal_port=internal_port, processes=workers)


@asynccontextmanager
async def whole_installation(
    bench: Bench, name: str, *, processes: int
) -> AsyncIterator[tuple[Served, dict[str, str]]]:
    """All that a customer's request may meet, with its variables: web processes, a worker and the demo upstream.

    The limits are on, are checked on every request, and are not reached.
    """
    worker_port = find_free_port()
    async with upstream(bench) as upstream_url:
        environment = bench.servers.environment(
            name,
            ZENZEFI_TARGET_URL=upstream_url,
            WORKER_METRICS_PORT=str(worker_port),
            RATE_LIMIT_AUTH="1000000/3600",
            RATE_LIMIT_API="1000000/60",
            RATE_LIMIT_PROXY="1000000/60",
        )
        async with (
            serve(bench, environment, processes=processes) as served,
            program(bench, "worker", ["zenzefi", "worker"], environment, worker_port),
        ):
            yield served, environment


@asynccontextmanager
async def serve_module(
    bench: Bench, module: str, *options: str, environment: Mapping[str, str], name: str | None = None
) -> AsyncIterator[Served]:
    """A module that takes its port as its first argument and serves in one process."""
    port = find_free_port()
    async with program(bench, name or module, [module, str(port), *options], environment, port) as child:
        yield Served(port=port, internal_port=None, processes=(psutil.Process(child.pid),))


@asynccontextmanager
async def upstream(bench: Bench) -> AsyncIterator[str]:
    """The demo upstream, as the URL for ZENZEFI_TARGET_URL."""
    port = find_free_port()
    async with program(bench, "upstream", ["zenzefi.devstack.upstream", "--port", str(port)], {}, port):
        yield f"http://{LOOPBACK}:{port}"


@asynccontextmanager
async def program(
    bench: Bench, name: str, arguments: list[str], environment: Mapping[str, str], port: int
) -> AsyncIterator[ChildProcess]:
    """Run a module as a process of its own until the end, from when it takes connections."""
    command = Command(
        name=name,
        arguments=[sys.executable, "-m", *arguments],
        log_file=bench.directory / f"{name}.log",
        environment=environment,
        working_directory=_ROOT,
    )
    child = ChildProcess(command)
    child.start()
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while not await _takes_connections(port):
                if child.returncode is not None:
                    raise RuntimeError(child.obituary())
                await asyncio.sleep(0.05)
        yield child
    finally:
        await asyncio.to_thread(child.stop)


async def _until_ready(internal_port: int) -> None:
    """The supervisor listens before its processes serve, and those before they know of their servers."""
    url = f"http://{LOOPBACK}:{internal_port}/readyz"
    async with asyncio.timeout(READY_TIMEOUT_S), aiohttp.ClientSession() as client:
        while True:
            async with client.get(url) as response:
                if response.ok:
                    return
            await asyncio.sleep(0.05)


async def _takes_connections(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True
