"""The gateway with all of its rules on, as a share of a bare aiohttp proxy: small requests, and 1 GiB each way.

And what a request of a token in use asks of PostgreSQL and Redis, by the servers' own counters.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from statistics import median, quantiles

import psycopg
import redis

from loadtest.figures import Bench, Figure
from loadtest.hammer import hammer
from loadtest.load import get
from loadtest.programs import Served, serve_module
from loadtest.seed import seed
from loadtest.servers import Servers
from loadtest.transfers import download_s, upload_s
from zenzefi.settings import Settings

HEADLINES = ("gateway, throughput", "gateway, p99", "gateway, cost", "1 GiB down", "1 GiB up")
CONNECTIONS = 64  # as many as a token may have on their way by default
_DATABASE = "bench_gateway"
_PATH = "/certificates/filter"
_MEBIBYTE = 1024 * 1024
# PostgreSQL tells others what a connection did once that has been idle for a second.
_COUNTED_AFTER_S = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What requests are sent to: the gateway or the bare proxy."""

    served: Served
    prefix: str
    headers: Mapping[str, str]

    def url(self, path: str) -> str:
        """Where a path of the upstream is reached through it."""
        return self.served.url + self.prefix + path


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one target did in one round."""

    per_second: float
    p99_ms: float
    cost_us: float
    requests: int


async def run(bench: Bench) -> list[Figure]:
    """One process of each beside the other, in turn in one run; shares are taken round by round."""
    seconds, rounds, size = (0.5, 2, 16 * _MEBIBYTE) if bench.quick else (5.0, 9, 1024 * _MEBIBYTE)
    bench.tell("starting")
    async with AsyncExitStack() as stack:
        serve = partial(_serve, stack, bench)
        upstream = await serve("loadtest.lean_upstream")
        environment = bench.servers.environment(
            _DATABASE,
            ZENZEFI_TARGET_URL=upstream.url,
            RATE_LIMIT_PROXY="1000000/60",  # checked on every request, and never reached
        )
        (person,) = await seed(Settings.from_env(environment), count=1, funds=Decimal("100.00"))
        gateway = await serve("loadtest.gateway_process", environment=environment)
        targets = (
            Target(served=await serve("loadtest.bare_proxy", upstream.url), prefix="", headers={}),
            Target(served=gateway, prefix="/api/v1/proxy", headers=person.gateway_headers),
        )
        found: list[tuple[Round, Round]] = []
        for number in range(-1, rounds):  # the first one warms all up
            bench.tell(f"round {number + 1} of {rounds}")
            bare, ours = [await _measure(target, seconds=seconds) for target in targets]
            if number >= 0:
                found.append((bare, ours))
        bench.tell("queries")
        costs = await _count_queries(bench.servers, targets[1], seconds=seconds)
        return [*_throughput(found), *costs, *await _transfers(bench, targets, size=size)]


async def _serve(
    stack: AsyncExitStack, bench: Bench, module: str, *options: str, environment: Mapping[str, str] | None = None
) -> Served:
    return await stack.enter_async_context(serve_module(bench, module, *options, environment=environment or {}))


async def _measure(target: Target, *, seconds: float) -> Round:
    content = get(target.url(_PATH), headers=target.headers)
    before = target.served.cpu_s()
    load = await hammer(target.served.url, content, connections=CONNECTIONS, seconds=seconds)
    spent_s = target.served.cpu_s() - before
    load.require_success()
    return Round(
        per_second=load.per_second,
        p99_ms=quantiles(load.latencies_s, n=100)[-1] * 1000,
        cost_us=spent_s / load.requests * 1e6,
        requests=load.requests,
    )


def _throughput(rounds: list[tuple[Round, Round]]) -> list[Figure]:
    method = f"one process, {CONNECTIONS} connections, limits, metering, metrics and logs on; median of {len(rounds)}"
    method += " rounds in turn; the share is of the bare proxy"

    def figures(name: str, unit: str, of: Callable[[Round], float], how: str) -> list[Figure]:
        bare = median(of(bare) for bare, _ in rounds)
        ours, share = median(of(ours) for _, ours in rounds), median(of(ours) / of(bare) for bare, ours in rounds)
        return [
            Figure(name=f"bare proxy, {name}", value=bare, unit=unit, method=how),
            Figure(name=f"gateway, {name}", value=ours, unit=unit, ratio=share, method=how),
        ]

    return [
        *figures("throughput", "req/s", lambda each: each.per_second, method),
        *figures("p99", "ms", lambda each: each.p99_ms, method),
        *figures("cost", "µs of CPU", lambda each: each.cost_us, f"CPU time of the process per request, {method}"),
    ]


async def _count_queries(servers: Servers, target: Target, *, seconds: float) -> list[Figure]:
    """What a token that has been in use costs the two servers, the background's share included."""
    before = await asyncio.to_thread(_counters, servers)
    measured = await _measure(target, seconds=seconds)
    await asyncio.sleep(_COUNTED_AFTER_S)
    after = await asyncio.to_thread(_counters, servers)
    transactions, scripts = ((now - then) / measured.requests for now, then in zip(after, before, strict=True))
    method = f"growth of the server's own counter over {measured.requests:,} requests of one token, divided by them"
    return [
        Figure(
            name="PostgreSQL transactions per warm request",
            value=transactions,
            unit="",
            method=f"{method}; all of it is metering and other work of each second",
        ),
        Figure(name="Redis calls per warm request", value=scripts, unit="", method=method),
    ]


def _counters(servers: Servers) -> tuple[int, int]:
    """Transactions of the database, and calls of Redis: what scripts call within them is counted with them."""
    with psycopg.connect(servers.postgres.dsn(), autocommit=True) as connection:
        row = connection.execute(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s", (_DATABASE,)
        ).fetchone()
    assert row is not None
    valkey = servers.valkey
    with redis.Redis(host=valkey.host, port=valkey.port, password=valkey.password) as client:
        statistics = client.info("commandstats")
    calls = sum(each["calls"] for name, each in statistics.items() if name.startswith("cmdstat_eval"))
    return int(row[0]), int(calls)


async def _transfers(bench: Bench, targets: tuple[Target, Target], *, size: int) -> list[Figure]:
    rounds = 1 if bench.quick else 5
    figures: list[Figure] = []
    for name, path, transfer in (("down", f"/bytes/{size}", download_s), ("up", "/sink", upload_s)):
        rates: list[list[float]] = []
        for number in range(rounds):
            bench.tell(f"{size // _MEBIBYTE} MiB {name}, round {number + 1} of {rounds}")
            spent_s = [
                await asyncio.to_thread(transfer, target.url(path), headers=target.headers, size=size)
                for target in targets
            ]
            rates.append([size / _MEBIBYTE / each_s for each_s in spent_s])
        method = f"{size // _MEBIBYTE} MiB on one connection, median of {rounds} rounds in turn"
        figures += [
            Figure(
                name=f"1 GiB {name}, bare proxy", value=median(bare for bare, _ in rates), unit="MiB/s", method=method
            ),
            Figure(
                name=f"1 GiB {name}",
                value=median(ours for _, ours in rates),
                unit="MiB/s",
                ratio=median(ours / bare for bare, ours in rates),
                method=f"{method}; the share is of the bare proxy",
            ),
        ]
    return figures
