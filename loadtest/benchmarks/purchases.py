"""Purchases of tokens on one process against PostgreSQL with fsync on: by many wallets, and by one alone."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import cycle
from statistics import median
from typing import Any

from loadtest.figures import Bench, Figure
from loadtest.load import Load, request, send_from
from loadtest.people import Person
from loadtest.programs import Served, serve_module
from loadtest.seed import seed
from zenzefi.settings import Settings

HEADLINES = ("purchases, 1000 wallets", "purchases, 1000 wallets, with keys", "purchases, one wallet")
CONNECTIONS = 64
_PATH = "/api/v1/tokens/purchase"
_PLACE = "0" * 32  # where a key goes
_FUNDS = Decimal("10000000.00")


async def run(bench: Bench) -> list[Figure]:
    """Buy as fast as it goes: many wallets, many with an Idempotency-Key for each purchase, and one wallet, in turn."""
    people_count, seconds, rounds = (8, 0.5, 1) if bench.quick else (1000, 10.0, 3)
    bench.tell("starting")
    environment = bench.servers.environment("bench_purchases", RATE_LIMIT_API="10000000/60")
    people = await seed(Settings.from_env(environment), count=people_count, funds=_FUNDS)
    many, keyed, one = f"{people_count} wallets", f"{people_count} wallets, with keys", "one wallet"
    found: dict[str, list[tuple[Load, float]]] = {many: [], keyed: [], one: []}
    async with serve_module(bench, "loadtest.gateway_process", environment=environment, name="web") as served:
        for number in range(-1, rounds):  # the first one warms all up
            for name, measured in found.items():
                bench.tell(f"round {number + 1} of {rounds}: {name}")
                buyers = people[:1] if name == one else people
                bought = await _buy(served, buyers, with_keys=name == keyed, seconds=seconds)
                if number >= 0:
                    measured.append(bought)
    bench.tell("verifying the ledger")
    report = await asyncio.to_thread(_verify, environment)
    how = f"one process, {CONNECTIONS} connections, median of {rounds} rounds of {seconds:g} s in turn, fsync on"
    return [
        *(figure for name, measured in found.items() for figure in _figures(name, measured, how)),
        Figure(
            name="faults in the ledger",
            value=len(report["faults"]),
            unit="faults",
            method=f"zenzefi ledger verify afterwards: {report['transactions']:,} transactions",
        ),
    ]


async def _buy(served: Served, buyers: Sequence[Person], *, with_keys: bool, seconds: float) -> tuple[Load, float]:
    """What came of it, and µs of CPU of the process per purchase."""
    before = served.cpu_s()
    load = await send_from(
        served.url, _requests(served.url, buyers, with_keys=with_keys), connections=CONNECTIONS, seconds=seconds
    )
    load.require_success("purchases")
    return load, (served.cpu_s() - before) / load.requests * 1e6


def _requests(url: str, buyers: Sequence[Person], *, with_keys: bool) -> Iterator[bytes]:
    """One buyer after another, over and over; a key is another one each time."""
    key = {"Idempotency-Key": _PLACE} if with_keys else {}
    purchases = [
        request("POST", url + _PATH, headers={**buyer.api_headers, **key}, body={"duration_hours": 1})
        for buyer in buyers
    ]
    for number, purchase in enumerate(cycle(purchases)):
        yield purchase.replace(_PLACE.encode(), f"{time.time_ns():016x}-{number:015x}".encode())


def _verify(environment: dict[str, str]) -> dict[str, Any]:
    completed = subprocess.run(
        [sys.executable, "-m", "zenzefi", "ledger", "verify", "--json"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=False,  # it fails when it finds something, which is what is reported
    )
    report: dict[str, Any] = json.loads(completed.stdout)
    return report


def _figures(name: str, rounds: Sequence[tuple[Load, float]], how: str) -> list[Figure]:
    latencies_ms = [latency * 1000 for load, _ in rounds for latency in load.latencies_s]
    return [
        Figure(
            name=f"purchases, {name}", value=median(load.per_second for load, _ in rounds), unit="a second", method=how
        ),
        Figure(name=f"a purchase, {name}", value=median(latencies_ms), unit="ms", method=f"p50; {how}"),
        Figure(
            name=f"cost of a purchase, {name}",
            value=median(cost for _, cost in rounds),
            unit="µs of CPU",
            method=f"CPU time of the process; {how}",
        ),
    ]
