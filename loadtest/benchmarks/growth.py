"""Growth: what every API route takes with a million users, as a multiple of what it takes on an empty database."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from statistics import median

from loadtest.figures import Bench, Figure
from loadtest.load import send_once
from loadtest.population import Population, populate, sizes
from loadtest.probes import PROBES, Probe, World
from loadtest.programs import serve_module, upstream
from loadtest.seed import seed, seed_superuser
from zenzefi.settings import Settings

HEADLINES = ("database", "the route that grows most")
FULL_USERS, QUICK_USERS = 1_000_000, 300
_PEOPLE = 16
_FUNDS = Decimal("100000.00")


async def run(bench: Bench) -> list[Figure]:
    """Ask every route of two installations in turn, one request at a time: one is empty, one has years behind it."""
    users, count, rounds = (QUICK_USERS, 1, 1) if bench.quick else (FULL_USERS, 20, 5)
    limits = {"RATE_LIMIT_AUTH": "1000000/3600", "RATE_LIMIT_API": "1000000/60", "RATE_LIMIT_PROXY": "1000000/60"}
    hosts = {"PAYMENT_RETURN_HOSTS": "127.0.0.1:8000"}
    async with upstream(bench) as upstream_url:
        variables = {**limits, **hosts, "ZENZEFI_TARGET_URL": upstream_url}
        empty, full = (bench.servers.environment(f"bench_growth_{name}", **variables) for name in ("empty", "full"))
        dsn = bench.servers.postgres.dsn("bench_growth_full")
        await asyncio.to_thread(populate, dsn, Population.until(datetime.now(UTC), users=users), tell=bench.tell)
        found: dict[Probe, list[tuple[float, float]]] = {probe: [] for probe in PROBES}
        async with (
            serve_module(bench, "loadtest.gateway_process", environment=empty, name="empty") as small,
            serve_module(bench, "loadtest.gateway_process", environment=full, name="full") as large,
        ):
            worlds = [await _people(small.url, empty), await _people(large.url, full)]
            for number in range(-1, rounds):  # the first one warms all up
                for probe in PROBES:
                    bench.tell(f"round {number + 1} of {rounds}: {probe.name}")
                    small_ms, large_ms = [await _p50_ms(world, probe, count) for world in worlds]
                    if number >= 0:
                        found[probe].append((small_ms, large_ms))
    rows = await asyncio.to_thread(sizes, dsn)
    return _figures(found, rows, method=f"one request at a time, median of {rounds} medians of {count} in turn")


async def _people(url: str, environment: dict[str, str]) -> World:
    settings = Settings.from_env(environment)
    people = await seed(settings, count=_PEOPLE, funds=_FUNDS)
    return World(url=url, people=people, superuser=await seed_superuser(settings))


async def _p50_ms(world: World, probe: Probe, count: int) -> float:
    load = await send_once(world.url, await world.requests(probe, count))
    load.require_success(probe.name)
    return median(load.latencies_s) * 1000


def _figures(found: dict[Probe, list[tuple[float, float]]], rows: dict[str, int], *, method: str) -> list[Figure]:
    ratios = {probe: median(large / small for small, large in pairs) for probe, pairs in found.items()}
    slowest = max(ratios, key=lambda probe: ratios[probe])
    entries, usage = rows["ledger_transactions"], rows["usage_hourly"] + rows["usage_daily"]
    held = (
        f"{rows['users']:,} users, {entries:,} ledger entries, {rows['access_tokens']:,} tokens, {usage:,} usage rows"
    )
    return [
        Figure(name="database", value=rows["bytes"] / 1e9, unit="GB", method=held),
        Figure(
            name="the route that grows most",
            value=ratios[slowest],
            unit="times its empty p50",
            method=f"{slowest.name}; {method}",
        ),
        *(
            Figure(
                name=probe.name,
                value=median(large for _, large in pairs),
                unit="ms",
                ratio=ratios[probe],
                method=f"p50; the share is of the empty database's; {method}",
            )
            for probe, pairs in found.items()
        ),
    ]
