"""What a request of a token that is in use costs: nothing of PostgreSQL, and at most one call of Redis."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import aiohttp

from tests.gateway.stack import Servers, ask, buy, connect, frozen
from tests.support.patience import PatientClock, patient_clock

# Parts of every statement that a request itself may cause; the background has others.
ON_REQUEST_PATH = (
    "token.token_hash = $1",
    "INSERT INTO device_leases",
    "SELECT device_hash, expires_at FROM device_leases",
    "UPDATE access_tokens",
    "INSERT INTO audit_log",
)
# Parts of what asyncpg asks of a connection that is new, as it may be whenever the others were busy for once.
ON_CONNECTING = ("typeinfo_tree", "current_setting('jit')", "set_config('jit'")


@dataclass
class Traffic:
    """What reached Redis and PostgreSQL."""

    scripts: int = 0
    commands: Counter[str] = field(default_factory=Counter)
    statements: list[str] = field(default_factory=list)

    @property
    def on_request_path(self) -> list[str]:
        return [line for line in self.statements if any(part in line for part in ON_REQUEST_PATH)]


@asynccontextmanager
async def overheard(servers: Servers) -> AsyncIterator[Traffic]:
    """Listen to both servers; what was heard is complete after the block."""
    traffic = Traffic()
    log = servers.postgres.log_file
    log_start = log.stat().st_size
    last_word = uuid4().hex
    async with servers.redis() as redis, redis.monitor() as monitor:

        async def listen() -> None:
            while (command := await monitor.next_command())["command"] != f"ECHO {last_word}":
                if command["client_type"] != "lua":
                    traffic.commands[command["command"].split()[0].upper()] += 1

        listener = asyncio.create_task(listen())
        yield traffic
        await redis.echo(last_word)
        async with asyncio.timeout(30):
            await listener
    with log.open("rb") as lines:
        lines.seek(log_start)
        traffic.statements = _entries(lines.read().decode())
    traffic.scripts = traffic.commands["EVALSHA"] + traffic.commands["EVAL"]


def _entries(text: str) -> list[str]:
    """The log's entries, each with the lines that continue it."""
    entries: list[str] = []
    for line in text.splitlines():
        if line.startswith("\t") and entries:
            entries[-1] += " " + line.strip()
        else:
            entries.append(line)
    return [
        entry
        for entry in entries
        if ("LOG:  execute" in entry or "LOG:  statement" in entry) and not any(part in entry for part in ON_CONNECTING)
    ]


async def hammer(client: aiohttp.ClientSession, token: str, *, seconds: float) -> list[float]:
    """Requests one after the other on 8 connections; the seconds that each took, but for those of this machine."""
    ends_at = time.monotonic() + seconds

    async def one_client(clock: PatientClock) -> list[float]:
        durations = []
        while time.monotonic() < ends_at:
            started = clock()
            assert (await ask(client, token)).status == 200
            durations.append(clock() - started)
        return durations

    with patient_clock() as clock:
        found = await asyncio.gather(*(one_client(clock) for _ in range(8)))
    return [duration for durations in found for duration in durations]


async def test_a_busy_token_asks_redis_once_a_second_and_postgresql_never(servers: Servers) -> None:
    processes, seconds = 2, 6
    async with servers.serve(processes=processes) as served, connect(served.url) as client:
        _, [token] = await buy(client)
        await hammer(client, token, seconds=1)
        begun_at = time.monotonic()
        async with overheard(servers) as traffic:
            requests = len(await hammer(client, token, seconds=seconds))
        heard_s = time.monotonic() - begun_at  # more than was asked for, where this machine stood still at the end
    assert requests > 200
    assert traffic.on_request_path == []
    # Once a second and process, and the copy that is renewed behind the requests' back every 2.5 s or so.
    assert seconds // 3 <= traffic.scripts <= processes * (heard_s + 1) + processes * heard_s / 2
    # The metering has six statements a second and process; the rest is the clock, the renewals, and a round more.
    assert len(traffic.statements) < processes * heard_s * 10
    assert any("INSERT INTO usage_batches" in line for line in traffic.statements), "the log shows what it should"


async def test_a_token_that_redis_knows_costs_one_call_and_no_query(servers: Servers) -> None:
    async with servers.serve(processes=1) as served, connect(served.url) as client:
        # Few of them, so that on a slow machine the first is asked for again within the life of its copy, too.
        _, tokens = await buy(client, tokens=10)
        for token in tokens:
            assert (await ask(client, token)).status == 200
        await asyncio.sleep(1.1)  # until the process has forgotten them all
        async with overheard(servers) as traffic:
            for token in tokens:
                assert (await ask(client, token)).status == 200
        assert traffic.on_request_path == []
        renewed = sum("ANY($1::bytea[])" in line for line in traffic.statements) * len(tokens)
        assert len(tokens) <= traffic.scripts <= len(tokens) + renewed
        assert set(traffic.commands) <= {"EVALSHA", "PING", "INFO", "CLIENT", "MONITOR"} | _WORKERS


# What arq and the health checks say to Redis beside the requests.
_WORKERS = {"ZRANGEBYSCORE", "PSETEX", "GET", "SET", "HELLO", "AUTH", "SELECT"}


async def test_a_busy_token_does_not_notice_a_postgresql_that_hangs(servers: Servers) -> None:
    async with servers.serve(processes=1) as served, connect(served.url) as client:
        _, [token] = await buy(client)
        await hammer(client, token, seconds=0.5)
        with frozen(servers.postgres):
            durations = sorted(await hammer(client, token, seconds=2))
        assert len(durations) > 50
        # Who asked it would wait for as long as it hangs; a processor may stand still while the others go on.
        assert durations[-1] < 1.5
