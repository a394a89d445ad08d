"""/metrics of the product as it is run: true whichever process answers, through restarts, and safe from its clients."""

import asyncio
import json
import os
import random
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from itertools import product
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest

from tests.server.supervised import stopped
from tests.support.exposition import Series, parse, total
from tests.support.people import gateway_headers, register
from tests.support.serving import Served

REQUESTS = "zenzefi_http_requests_total"
PROXY = "/api/v1/proxy/{path}"
FORWARDED = {"route": PROXY, "method": "GET", "code": "200"}
Serving = Callable[..., AbstractAsyncContextManager[Served]]


async def scrape(served: Served) -> dict[Series, float]:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as client,
        client.get(f"{served.internal_url}/metrics") as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return parse(await response.text())


async def until_scraped(served: Served, *, requests: float, **labels: str) -> dict[Series, float]:
    """The metrics once so many such requests are counted: a request is counted when its answer is on its way."""
    async with asyncio.timeout(30):
        while True:
            samples = await scrape(served)
            if total(samples, REQUESTS, **labels) >= requests:
                return samples
            await asyncio.sleep(0.05)


def started_processes(served: Served) -> list[int]:
    """All that have ever been ready, in that order."""
    events = map(json.loads, served.log.rpartition("\n")[0].splitlines())
    return [event["process_id"] for event in events if event["event"] == "process_ready"]


def processes(served: Served) -> list[int]:
    return [child.pid for child in psutil.Process(served.process.pid).children()]


BOTH = {"0", "1"}


async def until_logged(served: Served, event: str, *, times: int) -> None:
    async with asyncio.timeout(30):
        while served.log.count(f'"event": "{event}"') < times:  # noqa: ASYNC110  it is told in a file
            await asyncio.sleep(0.05)


async def until_both_tell(served: Served) -> None:
    """Wait until the gauges of both processes are in a scrape: each is set once a second."""
    async with asyncio.timeout(30):
        while {dict(key[1])["process"] for key in await scrape(served) if key[0] == "process_open_fds"} != BOTH:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


@pytest.fixture
async def served(serving: Serving) -> AsyncIterator[Served]:
    async with serving(processes=2, RATE_LIMIT_PROXY="100000/60") as served:
        yield served


async def test_totals_are_what_was_sent_whichever_process_answers_and_through_restarts(served: Served) -> None:
    sent = 0

    async def send(client: aiohttp.ClientSession, count: int) -> None:
        nonlocal sent
        for _ in range(count):
            async with client.get("/api/v1/proxy/hello", headers=headers) as response:
                await response.read()
                assert response.status == 200
                sent += 1

    connector = aiohttp.TCPConnector(force_close=True)  # each request may meet another process
    async with aiohttp.ClientSession(served.url, connector=connector) as client:
        person = await register(client)
        await person.top_up("10.00")
        headers = gateway_headers((await person.buy_token())["token"])
        await asyncio.gather(*(send(client, 20) for _ in range(8)))

        first = await until_scraped(served, requests=sent, **FORWARDED)
        for process_id in processes(served):  # the other one answers, for both
            async with stopped(process_id):
                for _ in range(3):
                    samples = await scrape(served)
                    assert total(samples, REQUESTS, route=PROXY) == sent
                    assert total(samples, "zenzefi_upstream_requests_total", outcome="2xx") == sent
                    assert total(samples, "zenzefi_ratelimit_decisions_total", outcome="admitted") == sent
        await until_both_tell(served)

        served.process.send_signal(signal.SIGHUP)
        while '"event": "rolling_restart_done"' not in served.log:
            await send(client, 10)
            assert total(await until_scraped(served, requests=sent, **FORWARDED), REQUESTS, route=PROXY) == sent
        for killed, process_id in enumerate(started_processes(served)[-2:], 1):
            os.kill(process_id, signal.SIGKILL)
            await until_logged(served, "process_died", times=killed)
            await send(client, 10)
            last = await until_scraped(served, requests=sent, **FORWARDED)
            assert total(last, REQUESTS, route=PROXY) == sent
    names = {name for name, _ in last}
    shrunk = [
        series
        for series, value in first.items()
        if series[0].endswith(("_total", "_bucket", "_count", "_sum"))
        and not series[0].startswith("process_")
        and last.get(series, 0.0) < value
    ]
    assert shrunk == []
    assert {"zenzefi_build_info", "zenzefi_db_pool_connections", "zenzefi_upstream_breaker_state"} <= names
    assert total(last, "zenzefi_token_checks_total", outcome="usable") == sent
    assert total(last, "zenzefi_metering_flushes_total", outcome="stored") > 0


HOSTILE = 10_000
AT_ONCE = 50  # requests that are sent before their answers are read
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "SEARCH", "TRACE")
PLACES = ("/", "/api/v1/proxy/", "/api/v1/tokens/", "/api/v1/webhooks/payments/", "/docs/")
NAMES: tuple[Callable[[], str], ...] = (
    lambda: secrets.token_urlsafe(12),
    lambda: f"{secrets.token_hex(6)}%22%7D%0A",
    lambda: f"{secrets.token_hex(6)}/../b",
)
TOKENS: tuple[Callable[[], str], ...] = (
    lambda: f"znz_{secrets.token_urlsafe(36)}",
    lambda: secrets.token_hex(8),
    lambda: '"} 1',
)
KINDS = list(product(METHODS, PLACES, NAMES, TOKENS))


def hostile_request(method: str, place: str, name: Callable[[], str], token: Callable[[], str]) -> bytes:
    """A request that names a path, a token and a device that nobody has seen before."""
    return (
        f"{method} {place}{name()}?{secrets.token_hex(4)}=1 HTTP/1.1\r\n"
        f"Host: {secrets.token_hex(6)}\r\nX-Access-Token: {token()}\r\nX-Device-ID: {secrets.token_hex(8)}\r\n"
        f"X-Request-ID: {secrets.token_hex(8)}\r\nContent-Length: 0\r\n\r\n"
    ).encode()


async def annoy(served: Served, requests: Sequence[bytes], *, at_once: int) -> None:
    """Send requests, several at once, until all are answered: for some the connection is closed before the next."""
    address, answered = urlsplit(served.url), 0
    while answered < len(requests):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        is_open = True
        while is_open and answered < len(requests):
            batch, received = requests[answered : answered + at_once], bytearray()
            with suppress(ConnectionError):
                writer.write(b"".join(batch))
                while received.count(b"HTTP/1.1 ") < len(batch) and (piece := await reader.read(65_536)):
                    received += piece
            answered += received.count(b"HTTP/1.1 ")
            is_open = received.count(b"HTTP/1.1 ") == len(batch)
        writer.close()


async def annoy_with_methods(served: Served, rng: random.Random, count: int) -> None:
    """The same with methods that no server knows, for which it closes the connection."""
    address = urlsplit(served.url)
    for _ in range(count):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        method = "".join(rng.choices("ABCXYZ", k=8))
        writer.write(hostile_request(method, PLACES[0], NAMES[0], TOKENS[0]))
        assert await reader.readline() == b"HTTP/1.1 501 Not Implemented\r\n"
        writer.close()


@pytest.mark.timeout(600)
async def test_hostile_clients_add_no_series_and_see_no_metrics(served: Served) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    async with aiohttp.ClientSession(served.url) as client, client.get("/metrics") as response:
        assert response.status == 404
    # One of each kind brings all series that such requests have.
    await annoy(served, [hostile_request(*kind) for kind in KINDS], at_once=1)
    await annoy_with_methods(served, rng, 10)
    await until_both_tell(served)
    before = await scrape(served)
    many = [[hostile_request(*rng.choice(KINDS)) for _ in range(HOSTILE // 10)] for _ in range(10)]
    async with asyncio.timeout(300):
        await asyncio.gather(*(annoy(served, requests, at_once=AT_ONCE) for requests in many))
        await annoy_with_methods(served, rng, HOSTILE // 20)
    after = await until_scraped(served, requests=total(before, REQUESTS) + HOSTILE)
    known = {dict(labels).get(label, "") for _, labels in after for label in ("method", "route", "code", "outcome")}
    assert {"other", "unmatched", "404", "401"} <= known
    # The scrape itself has come to be counted.
    assert {series for series in set(after) - set(before) if ("route", "/metrics") not in series[1]} == set()
    assert total(after, "zenzefi_token_checks_total", outcome="malformed") > HOSTILE / 20
    assert all(json.loads(line) for line in served.log.rpartition("\n")[0].splitlines())
