"""The gateway while Redis or PostgreSQL is dead, hangs, or comes back empty."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

from tests.gateway.stack import DATABASE, Answer, Servers, ask, buy, connect, frozen, kill, until
from tests.support.patience import PatientClock
from tests.support.people import Person
from zenzefi.access.token_format import hash_token
from zenzefi.web.responses import format_time

DEADLINE = {"REDIS_DEADLINE": "0.05"}  # the default
# Who waited for Redis to come back would wait for two seconds. One processor may stand still for one while the others,
# and with them the clock of the test, go on.
AT_ONCE_S = 1.5
DEVICES = [f"device-{number:04}" for number in range(20)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """An answer, when it was asked for and came, and how long the product took for it."""

    begun: float
    ended: float
    took_s: float
    answer: Answer


@dataclass
class Load:
    """Requests one after the other until it is stopped, with the time of each."""

    client: aiohttp.ClientSession
    token: str
    answers: list[Timed] = field(default_factory=list)

    async def __aenter__(self) -> "Load":
        self._clock = PatientClock()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._clock.stop()
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    async def _run(self) -> None:
        while True:
            begun, started = time.monotonic(), self._clock()
            answer = await ask(self.client, self.token)
            took_s = self._clock() - started
            self.answers.append(Timed(begun=begun, ended=time.monotonic(), took_s=took_s, answer=answer))
            await asyncio.sleep(0.01)

    def statuses(self, *, since: float = 0.0, until: float = float("inf")) -> Counter[int]:
        return Counter(timed.answer.status for timed in self.answers if since <= timed.begun < until)

    def slowest_s(self, *, since: float = 0.0) -> float:
        return max(timed.took_s for timed in self.answers if timed.begun >= since)


async def test_a_dead_redis_costs_nobody_more_than_its_deadline(servers: Servers) -> None:
    async with servers.serve(processes=2, **DEADLINE) as served, connect(served.url, fresh=True) as client:
        _, [token, other] = await buy(client, tokens=2)
        async with Load(client, token) as load:
            await asyncio.sleep(1)
            kill(servers.valkey)
            killed_at = time.monotonic()
            await asyncio.sleep(3)
            first_use_without_redis = await ask(client, other)
            conflict = await ask(client, token, device="device-0002")
            servers.valkey.start()
            await asyncio.sleep(2)
            conflict_after_restart = await ask(client, token, device="device-0002")
    assert set(load.statuses()) == {200}
    assert load.slowest_s(since=killed_at) < AT_ONCE_S
    assert first_use_without_redis.status == 200
    # The lease was taken in Redis, which died with it and came back empty: it is PostgreSQL that kept it.
    assert (conflict.status, conflict.code) == (409, "device_conflict")
    assert 200 < int(conflict.headers["Retry-After"]) <= 300
    assert (conflict_after_restart.status, conflict_after_restart.code) == (409, "device_conflict")


async def test_a_redis_that_hangs_costs_nobody_more_than_its_deadline(servers: Servers) -> None:
    async with servers.serve(processes=2, **DEADLINE) as served, connect(served.url, fresh=True) as client:
        _, [token] = await buy(client)
        async with Load(client, token) as load:
            await asyncio.sleep(1)
            with frozen(servers.valkey):
                frozen_at = time.monotonic()
                await asyncio.sleep(3)
            await asyncio.sleep(1.5)
    assert set(load.statuses()) == {200}
    assert load.slowest_s(since=frozen_at) < AT_ONCE_S


async def test_one_device_wins_without_redis_too(servers: Servers) -> None:
    async with servers.serve(processes=4) as served, connect(served.url, fresh=True) as client:
        _, tokens = await buy(client, tokens=3)
        kill(servers.valkey)
        try:
            for token in tokens:
                answers = await asyncio.gather(*(ask(client, token, device=device) for device in DEVICES))
                assert Counter(answer.status for answer in answers) == {200: 1, 409: len(DEVICES) - 1}
        finally:
            servers.valkey.start()


async def test_a_dead_postgresql_lets_tokens_in_use_go_on_for_five_seconds(servers: Servers) -> None:
    async with servers.serve(processes=2) as served, connect(served.url, fresh=True) as client:
        _, [token, unused] = await buy(client, tokens=2)
        async with Load(client, token) as load:
            await asyncio.sleep(1)
            kill(servers.postgres)
            killed_at = time.monotonic()
            unknown = await ask(client, unused)
            await asyncio.sleep(8)
            started_at = time.monotonic()
            servers.postgres.start()
            recovery_s = await until(lambda: is_served(client, token), timeout_s=10)
            async with client.get("/api/v1/proxy/status", headers={"X-Access-Token": unused}) as response:
                status = await response.json()
    assert (unknown.status, status["is_activated"]) == (503, False)
    assert load.statuses(since=killed_at, until=killed_at + 1.5) == {
        200: load.statuses(since=killed_at, until=killed_at + 1.5).total()
    }
    # What is under way at the start may be served by it.
    without = [timed for timed in load.answers if timed.ended < started_at]
    assert 1.5 < max(timed.begun for timed in without if timed.answer.status == 200) - killed_at <= 5.1
    refused = [timed.answer for timed in without if killed_at + 5.2 < timed.begun]
    assert refused, "the time without a database was long enough to be refused"
    assert {(answer.status, answer.code) for answer in refused} == {(503, "database_unavailable")}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    assert recovery_s < 5


async def test_a_database_that_dies_before_the_upstreams_answer_does_not_start_the_clock(servers: Servers) -> None:
    async with servers.serve(processes=1) as served, connect(served.url) as client:
        _, [token] = await buy(client)
        first_use = asyncio.create_task(ask(client, token, "/slow?seconds=1.5"))
        await asyncio.sleep(0.5)
        kill(servers.postgres)
        answer = await first_use
        servers.postgres.start()
        assert (answer.status, answer.code) == (503, "database_unavailable")
        assert "X-Token-Expires-At" not in answer.headers

        async def is_known() -> bool:
            async with client.get("/api/v1/proxy/status", headers={"X-Access-Token": token}) as response:
                return response.status == 200 and not (await response.json())["is_activated"]

        await until(is_known, timeout_s=30)


async def is_served(client: aiohttp.ClientSession, token: str) -> bool:
    return (await ask(client, token)).status == 200


async def test_connections_that_break_all_the_time_fail_few_requests_and_activate_once(servers: Servers) -> None:
    async with servers.serve(processes=2) as served, connect(served.url, fresh=True) as client:
        person, tokens = await buy(client, tokens=30)
        killer = asyncio.create_task(terminate_backends(servers, every_s=0.05))
        try:
            answers = [answer for token in tokens for answer in await first_uses(client, token)]
        finally:
            killer.cancel()
            await asyncio.wait([killer])
        assert set(Counter(answer.status for answer in answers)) <= {200, 503}, served.log[-6000:]
        # A token whose every use was refused has no clock; of the others the clock is what the clients were told.
        ends = await ends_of_tokens(servers, person)
        for position, token in enumerate(tokens):
            told = {answer.headers.get("X-Token-Expires-At") for answer in answers[position * 3 : position * 3 + 3]}
            told.discard(None)
            assert told <= {ends[hash_token(token)]}


async def ends_of_tokens(servers: Servers, person: Person) -> dict[bytes, str | None]:
    """When each token of a person ends, as the gateway writes it; asked of no process that may miss a connection."""
    connection = await servers.cluster.connect(DATABASE)
    try:
        rows = await connection.fetch(
            "SELECT token_hash, expires_at FROM access_tokens WHERE user_id = $1::text::uuid", person.user_id
        )
    finally:
        await connection.close()
    return {row["token_hash"]: row["expires_at"] and format_time(row["expires_at"]) for row in rows}


async def first_uses(client: aiohttp.ClientSession, token: str) -> list[Answer]:
    return await asyncio.gather(*(ask(client, token) for _ in range(3)))


async def terminate_backends(servers: Servers, *, every_s: float) -> None:
    """End every connection of the product, again and again."""
    connection = await servers.cluster.connect()
    try:
        while True:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", servers.cluster.app
            )
            await asyncio.sleep(every_s)
    finally:
        await connection.close()
