"""Without Redis the limits stand: a share for each process, nothing for nobody, and no amnesty afterwards."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import redis as redis_py

from tests.gateway.stack import frozen, kill, until
from tests.support.patience import PatientClock
from zenzefi.devstack.valkey import EmbeddedValkey
from zenzefi.errors import RedisUnavailable
from zenzefi.infra.redis import RedisClient
from zenzefi.ratelimit.errors import LimitUnknown, RateLimitExceeded
from zenzefi.ratelimit.limiter import Limiter
from zenzefi.ratelimit.ring import LimitClass
from zenzefi.settings import Settings

Outage = Callable[[EmbeddedValkey], AbstractContextManager[None]]
AUTH, API, PROXY = LimitClass.AUTH, LimitClass.API, LimitClass.PROXY
LIMITS = {AUTH: 3, API: 40, PROXY: 200}
PROCESSES = 2
DEADLINE_S = 0.5  # long enough for a machine that is busy; a Redis that hangs is waited for as long


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A Valkey that may be broken."""
    server = EmbeddedValkey(tmp_path / "valkey", append_only=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def processes(env: dict[str, str], server: EmbeddedValkey) -> AsyncIterator[list["Process"]]:
    """What two processes have of the limits."""
    variables = {f"RATE_LIMIT_{name.upper()}": f"{limit}/60" for name, limit in LIMITS.items()}
    where = {"REDIS_HOST": server.host, "REDIS_PORT": str(server.port), "REDIS_PASSWORD": server.password}
    where |= {"REDIS_DEADLINE": str(DEADLINE_S)}
    settings = Settings.from_env({**env, **variables, **where, "RATE_LIMIT_PROCESSES": str(PROCESSES)})
    found = [Process(settings) for _ in range(PROCESSES)]
    for process in found:
        await until(process.is_connected, timeout_s=30)
    yield found
    for process in found:
        await process.aclose()


class Process:
    """The limiter of one process, and how long it took for each answer."""

    def __init__(self, settings: Settings) -> None:
        self.redis = RedisClient(settings)
        self.limiter = Limiter(settings, self.redis)
        self.clock = PatientClock()
        self.took_s: list[float] = []  # less what this machine was late by, and what that gave Redis more

    async def aclose(self) -> None:
        self.clock.stop()
        await self.limiter.aclose()
        await self.redis.aclose()

    async def is_connected(self) -> bool:
        try:
            return await self.redis.run("PING") == b"PONG"
        except RedisUnavailable:
            return False

    async def ask(self, limit_class: LimitClass, subject: str, times: int, *, every_s: float = 0.0) -> Counter[int]:
        """The statuses of so many requests, one after the other."""
        limiter = self.limiter.get(limit_class)
        assert limiter is not None
        statuses: Counter[int] = Counter()
        for _ in range(times):
            started, late_s = self.clock(), self.clock.late_s
            try:
                await limiter.admit(subject)
            except (RateLimitExceeded, LimitUnknown) as error:
                statuses[error.status] += 1
            else:
                statuses[200] += 1
            self.took_s.append(self.clock() - started - (self.clock.late_s - late_s))
            await asyncio.sleep(every_s)
        return statuses


@contextmanager
def killed(server: EmbeddedValkey) -> Iterator[None]:
    """Dead, and back with nothing in it."""
    kill(server)
    yield
    server.start()


@contextmanager
def read_only(server: EmbeddedValkey) -> Iterator[None]:
    """A replica of nobody: it answers, and takes no writes."""
    with redis_py.Redis(host=server.host, port=server.port, password=server.password) as client:
        client.config_set("replica-serve-stale-data", "yes")
        client.replicaof("127.0.0.1", "1")
        yield
        client.replicaof("NO", "ONE")


@pytest.mark.parametrize("outage", [killed, frozen, read_only])
async def test_share_is_exact_and_what_was_admitted_counts_afterwards(
    processes: list[Process], server: EmbeddedValkey, outage: Outage
) -> None:
    first, second = processes
    account, user, token = (f"test:{uuid4()}" for _ in range(3))
    assert await first.ask(API, user, 5) + await second.ask(API, user, 7) == {200: 12}
    assert await second.ask(PROXY, token, 30) == {200: 30}
    with outage(server):
        first.took_s.clear()
        other_users = [first.ask(API, f"test:{uuid4()}", 30, every_s=0.04) for _ in range(40)]
        answers = await asyncio.gather(
            first.ask(AUTH, account, 5),
            second.ask(AUTH, account, 5),
            first.ask(API, user, 40, every_s=0.03),
            second.ask(API, user, 5, every_s=0.2),
            second.ask(PROXY, token, 150, every_s=0.01),
            *other_users,
        )
        # A share is what the process has admitted before, too.
        assert answers[:5] == [
            {200: 1, 429: 4},
            {200: 1, 429: 4},
            {200: 15, 429: 25},
            {200: 5},
            {200: 70, 429: 80},
        ]
        assert answers[5:] == [{200: 20, 429: 10}] * 40
        assert first.limiter.degraded == {AUTH, API}
        assert second.limiter.degraded == {AUTH, API, PROXY}
        assert max(first.took_s) < DEADLINE_S + 0.1

    async def is_restored() -> bool:
        return not first.limiter.degraded and not second.limiter.degraded

    assert await until(is_restored, timeout_s=30) < 6
    # What was asked for when the server went away may have been charged and not arrived: then it counts, too. A busy
    # token's process asks for ten at a time, and again when the first call has been in vain.
    doubt = 0 if outage is killed else 40
    for limit_class, subject, admitted in ((AUTH, account, 2), (API, user, 32), (PROXY, token, 100)):
        statuses = Counter[int]()
        for process in (first, second, first, second):
            statuses += await process.ask(limit_class, subject, 110)
        left = LIMITS[limit_class] - admitted
        assert max(0, left - doubt) <= statuses[200] <= left


async def test_no_share_is_no_admission(env: dict[str, str], server: EmbeddedValkey) -> None:
    where = {"REDIS_HOST": server.host, "REDIS_PORT": str(server.port), "REDIS_PASSWORD": server.password}
    settings = Settings.from_env({**env, **where, "RATE_LIMIT_AUTH": "5/3600", "RATE_LIMIT_PROCESSES": "6"})
    process = Process(settings)
    await until(process.is_connected, timeout_s=30)
    kill(server)
    assert await process.ask(AUTH, "ip:192.0.2.1", 5) == {503: 5}
    await process.aclose()
