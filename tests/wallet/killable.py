"""An installation of its own whose processes the tests kill: `zenzefi serve`, a worker, and a PostgreSQL with fsync."""

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from enum import StrEnum
from pathlib import Path

import psutil

from tests.support.servers import Cluster
from tests.support.serving import Served, serve
from tests.workers.conftest import WorkerProcess, run_worker
from zenzefi.devstack.postgres import EmbeddedPostgres
from zenzefi.devstack.valkey import EmbeddedValkey

_DATABASE = "killable"
_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 30.0


class Victim(StrEnum):
    """What is killed."""

    WEB = "web"
    WORKER = "worker"
    POSTMASTER = "postmaster"


class Killable:
    """The running installation."""

    def __init__(
        self, env: Mapping[str, str], directory: Path, served: Served, postgres: EmbeddedPostgres, stack: ExitStack
    ) -> None:
        self.env = dict(env)
        self.served = served
        self._directory, self._postgres, self._stack = directory, postgres, stack
        self._worker = self._start_worker()

    async def kill(self, victim: Victim, chance: random.Random) -> None:
        """Kill -9, and start again what nobody else starts."""
        match victim:
            case Victim.WEB:
                await self._kill_web_process(chance)
            case Victim.WORKER:
                await self._until_worker_works()
                await self._worker.end(signal.SIGKILL)
                self._worker = self._start_worker()
            case Victim.POSTMASTER:
                await self._kill_postmaster()

    async def until_whole(self) -> None:
        """Wait until the worker is at work, and all web processes have been."""
        await self._until_worker_works()
        await _until(lambda: '"event": "serving"' in self.served.log)

    async def _kill_web_process(self, chance: random.Random) -> None:
        living: list[psutil.Process] = []

        def look() -> bool:
            living[:] = self._web_processes()
            return bool(living)

        await _until(look)
        process = chance.choice(living)
        with contextlib.suppress(psutil.NoSuchProcess):  # those that find no database at their start end by themselves
            process.kill()
        await asyncio.to_thread(process.wait, _END_TIMEOUT_S)  # the next kill must not choose it again

    async def _kill_postmaster(self) -> None:
        postmaster = psutil.Process(self._postgres.child.pid)
        postmaster.suspend()  # or it might start a backend after they were listed
        backends = postmaster.children()
        postmaster.kill()
        # They see that it is gone, each by itself; a new postmaster refuses to start beside them.
        _, remaining = await asyncio.to_thread(psutil.wait_procs, backends, _END_TIMEOUT_S)
        assert not remaining, remaining
        self._postgres.stop()
        self._postgres.launch()
        await asyncio.to_thread(self._postgres.wait_until_ready)
        assert "automatic recovery in progress" in self._postgres.child.log_text()

    async def _until_worker_works(self) -> None:
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not any(logged["event"] == "worker_started" for logged in self._worker.events):
                # One that finds no database at its start says so and ends, for whoever watches it to try again.
                if self._worker.process.poll() is not None:
                    self._worker = self._start_worker()
                await asyncio.sleep(0.05)

    def _web_processes(self) -> list[psutil.Process]:
        living = []
        for process in psutil.Process(self.served.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    living.append(process)
        return living

    def _start_worker(self) -> WorkerProcess:
        return self._stack.enter_context(run_worker(self.env, self._directory, ["-m", "workers"]))


async def _until(is_so: Callable[[], bool]) -> None:
    """Ask again and again: other processes tell nobody but their logs what became of them."""
    async with asyncio.timeout(_START_TIMEOUT_S):
        while True:
            if is_so():
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def run_killable(env: Mapping[str, str], directory: Path) -> AsyncIterator[Killable]:
    """Start the installation with these variables, on servers of its own, and stop it at the end."""
    async with AsyncExitStack() as stack:
        postgres = EmbeddedPostgres(directory / "postgres")
        postgres.start()
        stack.callback(postgres.stop)
        valkey = EmbeddedValkey(directory / "valkey")
        valkey.start()
        stack.callback(valkey.stop)
        cluster = Cluster(
            host=postgres.host,
            port=postgres.port,
            user=postgres.superuser,
            password=postgres.password,
            run=_DATABASE,
        )
        await cluster.prepare()
        await cluster.clone(_DATABASE)
        redis = {"REDIS_HOST": valkey.host, "REDIS_PORT": str(valkey.port), "REDIS_PASSWORD": valkey.password}
        own_env = {**env, **cluster.settings_env(_DATABASE), **redis, "REDIS_DB": "0"}
        served = await stack.enter_async_context(serve(own_env, processes=2))
        workers = stack.enter_context(ExitStack())
        yield Killable(own_env, directory, served, postgres, workers)
