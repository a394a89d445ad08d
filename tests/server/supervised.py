"""A running supervisor as tests see it, and a load that does not forgive one lost request."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.server.support import HOST, Client
from zenzefi.devstack.ports import find_free_port

ROOT = Path(__file__).parents[2]


@dataclass
class Supervised:
    process: Process
    port: int
    internal_port: int
    events: list[dict[str, Any]] = field(default_factory=list)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def children(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def count(self, event: str) -> int:
        return sum(found["event"] == event for found in self.events)

    async def logged(self, event: str, *, times: int = 1, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait until the event was logged so many times; returns the last of them."""
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(lambda: self.count(event) >= times)
        return [found for found in self.events if found["event"] == event][-1]

    async def ended(self, *, timeout_s: float = 30.0) -> int:
        async with asyncio.timeout(timeout_s):
            return await self.process.wait()

    async def follow(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            document = json.loads(line)  # whatever stands on stderr is a JSON line
            async with self._news:
                self.events.append(document)
                self._news.notify_all()

    def connect(self) -> AbstractAsyncContextManager[Client]:
        return Client.to(self.port)

    async def who_answers(self) -> int:
        async with self.connect() as client:
            await client.send(b"GET /process HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
            return int((await client.answer()).body)


@contextlib.asynccontextmanager
async def supervised(processes: int = 2, *, environ: Mapping[str, str] | None = None) -> AsyncIterator[Supervised]:
    port, internal_port = find_free_port(), find_free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.server.small_supervisor",
        str(processes),
        cwd=ROOT,
        stderr=PIPE,
        env={
            **os.environ,
            "ENVIRONMENT": "development",
            "SECRET_KEY": "only-for-the-tests-of-the-supervisor",
            "PORT": str(port),
            "INTERNAL_PORT": str(internal_port),
            "LOG_LEVEL": "info",
            **(environ or {}),
        },
    )
    running = Supervised(process=process, port=port, internal_port=internal_port)
    following = asyncio.create_task(running.follow())
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await following


@contextlib.asynccontextmanager
async def stopped(process_id: int) -> AsyncIterator[None]:
    """Have a process do nothing: neither does it take connections, nor does it end what it has begun."""
    os.kill(process_id, signal.SIGSTOP)
    try:
        async with asyncio.timeout(30):
            while psutil.Process(process_id).status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110  nothing announces it
                await asyncio.sleep(0.005)
        yield
    finally:
        os.kill(process_id, signal.SIGCONT)


async def wait_gone(process_ids: list[int], *, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while any(_runs(process_id) for process_id in process_ids):
        assert time.monotonic() < deadline, f"of {process_ids} some still run"
        await asyncio.sleep(0.02)


def _runs(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class Load:
    """Clients that never retry; whatever goes wrong with a request is a failure."""

    port: int
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    answered_by: set[int] = field(default_factory=set)
    path: str = "/process"
    patience_s: float = 30.0
    is_over: bool = False

    async def run(self, *, keeping: int, fresh: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(keeping):
                group.create_task(self._request_for_ever(keep_alive=True))
            for _ in range(fresh):
                group.create_task(self._request_for_ever(keep_alive=False))

    async def _request_for_ever(self, *, keep_alive: bool) -> None:
        while not self.is_over:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError as error:
                self.failures.append(f"connect: {error!r}")
                continue
            client = Client(reader, writer)
            with contextlib.suppress(ConnectionError):
                await self._use(client, keep_alive=keep_alive)
            await client.close()

    async def _use(self, client: Client, *, keep_alive: bool) -> None:
        fields = HOST if keep_alive else HOST + b"Connection: close\r\n"
        while not self.is_over:
            try:
                await client.send(b"GET %s HTTP/1.1\r\n" % self.path.encode() + fields + b"\r\n")
                answer = await client.answer(timeout_s=self.patience_s)
                assert answer.status == 200
            except (AssertionError, OSError, EOFError, TimeoutError) as error:
                self.failures.append(repr(error))
                return
            self.answered += 1
            if answer.body.isdigit():
                self.answered_by.add(int(answer.body))
            if answer.headers.get("connection") == "close":
                return
