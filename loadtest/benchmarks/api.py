"""The routes that people ask most often, as a share of a bare aiohttp handler that answers JSON after one query."""

from collections.abc import Sequence
from decimal import Decimal
from statistics import median

from loadtest.figures import Bench, Figure
from loadtest.load import get, send_each
from loadtest.programs import Served, serve_module
from loadtest.seed import seed
from zenzefi.settings import Settings

HEADLINES = ("balance, throughput", "my-tokens, throughput", "transactions, throughput")
CONNECTIONS = 64
PEOPLE = 64
_BARE = "bare handler"
_ROUTES = {
    "balance": "/api/v1/currency/balance",
    "my-tokens": "/api/v1/tokens/my-tokens",
    "transactions": "/api/v1/currency/transactions",
}


async def run(bench: Bench) -> list[Figure]:
    """Requests a second and CPU time per request of one process, beside the bare handler's, in turn in one run."""
    seconds, rounds = (0.3, 1) if bench.quick else (5.0, 7)
    bench.tell("starting")
    environment = bench.servers.environment("bench_api", RATE_LIMIT_API="1000000/60")
    people = await seed(Settings.from_env(environment), count=PEOPLE, funds=Decimal("1000.00"))
    async with (
        serve_module(bench, "loadtest.gateway_process", environment=environment, name="api") as product,
        serve_module(bench, "loadtest.bare_api", environment=environment) as bare,
    ):
        variants = {_BARE: (bare, [get(f"{bare.url}/{each.user_id}", headers={}) for each in people])}
        for name, path in _ROUTES.items():
            variants[name] = (product, [get(product.url + path, headers=each.api_headers) for each in people])
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
        for number in range(-1, rounds):  # the first one warms all up
            for name, (served, requests) in variants.items():
                bench.tell(f"round {number + 1} of {rounds}: {name}")
                measured = await _measure(served, requests, seconds=seconds)
                if number >= 0:
                    found[name].append(measured)
    method = f"one process, {CONNECTIONS} connections, {PEOPLE} users, median of {rounds} rounds in turn"
    return [figure for name in found for figure in _figures(name, found[name], bare=found[_BARE], method=method)]


async def _measure(served: Served, requests: Sequence[bytes], *, seconds: float) -> tuple[float, float]:
    """Requests a second, and µs of CPU per request."""
    before = served.cpu_s()
    load = await send_each(served.url, requests, connections=CONNECTIONS, seconds=seconds)
    load.require_success()
    return load.per_second, served.spent_s(since_s=before) / load.requests * 1e6


def _figures(
    name: str, rounds: list[tuple[float, float]], *, bare: list[tuple[float, float]], method: str
) -> list[Figure]:
    """Shares are taken round by round: they hold while the machine's speed drifts."""
    pairs = list(zip(rounds, bare, strict=True))
    is_bare = name == _BARE
    throughput, cost = (median(measured[place] for measured in rounds) for place in (0, 1))
    throughput_ratio, cost_ratio = (median(own[place] / floor[place] for own, floor in pairs) for place in (0, 1))
    of_bare = "" if is_bare else f"; the share is of the {_BARE}"
    return [
        Figure(
            name=f"{name}, throughput",
            value=throughput,
            unit="req/s",
            ratio=None if is_bare else throughput_ratio,
            method=method + of_bare,
        ),
        Figure(
            name=f"{name}, cost",
            value=cost,
            unit="µs of CPU",
            ratio=None if is_bare else cost_ratio,
            method=f"CPU time of the process per request, {method}{of_bare}",
        ),
    ]
