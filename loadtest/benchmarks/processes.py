"""Two web processes beside one: how much more they answer, and whether a request costs each of them as much."""

from decimal import Decimal
from statistics import median

from loadtest.figures import Bench, Figure
from loadtest.load import get, send_each
from loadtest.programs import Served, serve, upstream
from loadtest.seed import seed
from zenzefi.settings import Settings

HEADLINES = ("balance, two processes", "proxied request, two processes")
CONNECTIONS = 64
_PEOPLE = 64


async def run(bench: Bench) -> list[Figure]:
    """Installations of one and of two processes on the same servers, in turn: a balance, a small proxied request."""
    seconds, rounds = (0.3, 1) if bench.quick else (5.0, 7)
    bench.tell("starting")
    limits = {"RATE_LIMIT_API": "1000000/60", "RATE_LIMIT_PROXY": "1000000/60"}
    async with upstream(bench) as upstream_url:
        environment = bench.servers.environment("bench_processes", ZENZEFI_TARGET_URL=upstream_url, **limits)
        people = await seed(Settings.from_env(environment), count=_PEOPLE, funds=Decimal("1000.00"))
        async with (
            serve(bench, environment, processes=1, name="one") as one,
            serve(bench, environment, processes=2, name="two") as two,
        ):
            found: dict[str, list[tuple[float, ...]]] = {"balance": [], "proxied request": []}
            for number in range(-1, rounds):  # the first one warms all up
                for name, measured in found.items():
                    bench.tell(f"round {number + 1} of {rounds}: {name}")
                    is_proxied = name != "balance"
                    path = "/api/v1/proxy/certificates/filter" if is_proxied else "/api/v1/currency/balance"
                    turn: tuple[float, ...] = ()
                    for served in (one, two):
                        requests = [
                            get(served.url + path, headers=each.gateway_headers if is_proxied else each.api_headers)
                            for each in people
                        ]
                        turn += await _measure(served, requests, seconds=seconds)
                    if number >= 0:
                        measured.append(turn)
    method = f"{CONNECTIONS} connections, median of {rounds} rounds in turn; the load and the servers share the cores"
    return [figure for name, measured in found.items() for figure in _figures(name, measured, method)]


async def _measure(served: Served, requests: list[bytes], *, seconds: float) -> tuple[float, float]:
    """Requests a second, and µs of CPU per request."""
    before = served.cpu_s()
    load = await send_each(served.url, requests, connections=CONNECTIONS, seconds=seconds)
    load.require_success()
    return load.per_second, served.spent_s(since_s=before) / load.requests * 1e6


def _figures(name: str, turns: list[tuple[float, ...]], method: str) -> list[Figure]:
    return [
        Figure(
            name=f"{name}, two processes",
            value=median(turn[2] for turn in turns),
            unit="req/s",
            ratio=median(turn[2] / turn[0] for turn in turns),
            method=f"{method}; the share is of one process",
        ),
        Figure(
            name=f"{name}, cost with two processes",
            value=median(turn[3] for turn in turns),
            unit="µs of CPU",
            ratio=median(turn[3] / turn[1] for turn in turns),
            method=f"{method}; the share is of one process: at 1 only the cores limit how many processes help",
        ),
    ]
