"""What a proxied request pays for being observed: its metrics, its log line, its ids."""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from multidict import CIMultiDict

from loadtest.figures import Bench, Figure
from loadtest.load import send
from loadtest.programs import Served, serve_module, upstream
from zenzefi.devstack.demo import DEMO_DEVICE, DemoClient
from zenzefi.devstack.ports import LOOPBACK
from zenzefi.infra import instruments, logging
from zenzefi.infra.correlation import CURRENT, correlate
from zenzefi.infra.lines import FLUSH_S

HEADLINES = ("proxied request, all on", "of it metrics, log line and ids")
_CONNECTIONS = 64  # as many as a token may have on their way by default
# As many as wait for the writing thread at most.
_LINES = 10_000
_PATH = "/certificates/filter"
_ROUTE = "/api/v1/proxy/{path}"


async def run(bench: Bench) -> list[Figure]:
    """The CPU time of a gateway process per request, all on and nothing observed in turn; and each part in a loop."""
    seconds, rounds, times = (0.5, 2, 2_000) if bench.quick else (5.0, 7, 200_000)
    bench.tell("starting")
    environment = bench.servers.environment(
        "bench_observability",
        RATE_LIMIT_PROXY="1000000/60",  # checked on every request, and never reached
    )
    process = "loadtest.gateway_process"
    async with upstream(bench) as upstream_url:
        environment["ZENZEFI_TARGET_URL"] = upstream_url
        quieter = {**environment, "LOG_LEVEL": "warning"}
        async with (
            serve_module(bench, process, environment=environment, name="all on") as full,
            serve_module(bench, process, environment=quieter, name="no lines") as quiet,
            serve_module(bench, process, "--unobserved", environment=environment, name="unobserved") as bare,
        ):
            costs = await _measure(bench, (full, quiet, bare), seconds=seconds, rounds=rounds)
    bench.tell("parts")
    whole_us = median(observed for observed, _, _ in costs)
    paid_us = median(observed - unobserved for observed, _, unobserved in costs)
    lines_us = median(observed - without_lines for observed, without_lines, _ in costs)
    method = f"CPU time of the process per request at {_CONNECTIONS} connections, median of {rounds} rounds in turn"
    return [
        Figure(name="proxied request, all on", value=whole_us, unit="µs of CPU", method=method),
        Figure(
            name="of it metrics, log line and ids",
            value=paid_us,
            unit="µs of CPU",
            ratio=paid_us / whole_us,
            method=f"{method}, less that of a process without them",
        ),
        Figure(
            name="of it encoding and writing the line",
            value=lines_us,
            unit="µs of CPU",
            ratio=lines_us / whole_us,
            method=f"{method}, less that of a process with LOG_LEVEL=warning",
        ),
        *_parts(bench.directory, times=times, whole_us=whole_us),
    ]


async def _measure(bench: Bench, variants: Sequence[Served], *, seconds: float, rounds: int) -> list[list[float]]:
    """What each takes per request, in µs of CPU, round by round."""
    token = await asyncio.to_thread(
        DemoClient(host=LOOPBACK, port=variants[0].port).ensure_token, "", password=secrets.token_urlsafe(16)
    )
    costs: list[list[float]] = []
    for number in range(-1, rounds):  # the first one warms all up
        bench.tell(f"round {number + 1} of {rounds}")
        costs.append([await _cpu_per_request_us(served, token, seconds=seconds) for served in variants])
    return costs[1:]


async def _cpu_per_request_us(served: Served, token: str, *, seconds: float) -> float:
    headers = {"X-Access-Token": token, "X-Device-ID": DEMO_DEVICE}
    before = served.cpu_s()
    load = await send(f"{served.url}/api/v1/proxy{_PATH}", headers=headers, connections=_CONNECTIONS, seconds=seconds)
    load.require_success()
    return (served.cpu_s() - before) / load.requests * 1e6


def _parts(directory: Path, *, times: int, whole_us: float) -> list[Figure]:
    """What each part takes by itself, called as a request calls it."""
    ids = correlate(CIMultiDict())
    traced = CIMultiDict({"X-Request-ID": "bench", "traceparent": ids.traceparent, "tracestate": "vendor=1"})
    plain = CIMultiDict({"Host": "gateway.example"})
    instruments.ROUTE.allow([_ROUTE])
    parts: dict[str, Callable[[], object]] = {
        "metrics": _count,
        "ids, new": lambda: _correlate(plain),
        "ids, accepted": lambda: _correlate(traced),
    }
    costs = {name: min(_loop_us(part, times) for _ in range(5)) for name, part in parts.items()}
    costs["log line, written"] = min(_line_us(directory / "lines.log", min(times, _LINES)) for _ in range(5))
    method = f"the calls of one request in a loop, best of 5 times {times:,} (of lines {min(times, _LINES):,})"
    return [
        Figure(name=name, value=cost_us, unit="µs", ratio=cost_us / whole_us, method=method)
        for name, cost_us in costs.items()
    ]


def _count() -> None:
    """What the way of a proxied request counts."""
    instruments.HTTP_REQUESTS.labels("GET", _ROUTE, 200).inc()
    instruments.HTTP_DURATION.labels(_ROUTE).observe(0.0012)
    instruments.UPSTREAM_REQUESTS.labels("2xx").inc()
    instruments.UPSTREAM_DURATION.labels().observe(0.0007)
    instruments.RATE_LIMIT_DECISIONS.labels("proxy", "admitted").inc()
    instruments.TOKEN_CHECKS.labels("usable").inc()


def _correlate(headers: "CIMultiDict[str]") -> None:
    ids = correlate(headers)
    token = CURRENT.set(ids)
    ids.header_lines()
    CURRENT.reset(token)


def _loop_us(part: Callable[[], object], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        part()
    return (time.perf_counter() - started) / times * 1e6


def _line_us(path: Path, times: int) -> float:
    """CPU time of a line on its way into a file, its share of the writing thread's work included."""
    ids = correlate(CIMultiDict())
    with path.open("w") as stream:
        logging.configure_logging("info", stream, by_thread=True)
        started = time.process_time()
        for _ in range(times):
            logging.log_request(
                {
                    "request_id": ids.request_id,
                    "trace_id": ids.trace_id,
                    "method": "GET",
                    "route": _ROUTE,
                    "path": f"/api/v1/proxy{_PATH}",
                    "status": 200,
                    "code": None,
                    "duration_ms": 1.234,
                    "bytes_in": 0,
                    "bytes_out": 47,
                    "client_ip": "203.0.113.9",
                    "user_id": "0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b",
                    "token_id": "0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5c",
                    "device": "…vice",
                    "outcome": "served",
                    "upstream_ms": 0.789,
                }
            )
        time.sleep(2 * FLUSH_S)
        took_s = time.process_time() - started
        logging.configure_logging("error")  # what is logged later must not go where the file was
    return took_s / times * 1e6
