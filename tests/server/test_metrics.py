"""/metrics of the product as it is run: true whichever process answers, through restarts, and safe from its clients."""

import asyncio
import json
import os
import random
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import aiohttp
import psutil
import pytest

from tests.support.exposition import Series, parse, total
from tests.support.people import gateway_headers, register
from tests.support.serving import Served

REQUESTS = "zenzefi_http_requests_total"
PROXY = "/api/v1/proxy/{path}"
Serving = Callable[..., AbstractAsyncContextManager[Served]]


async def scrape(served: Served) -> dict[Series, float]:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as client,
        client.get(f"{served.internal_url}/metrics") as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return parse(await response.text())


async def until_scraped(served: Served, *, requests: int) -> dict[Series, float]:
    """The metrics once so many proxied requests are counted: a request is counted when its answer is on its way."""
    async with asyncio.timeout(5):
        while True:
            samples = await scrape(served)
            if total(samples, REQUESTS, route=PROXY, method="GET", code="200") >= requests:
                return samples


def processes(served: Served) -> list[int]:
    return [child.pid for child in psutil.Process(served.process.pid).children()]


@asynccontextmanager
async def stopped(process_id: int) -> AsyncIterator[None]:
    os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process_id, signal.SIGCONT)


BOTH = {"0", "1"}


async def until_logged(served: Served, event: str, *, times: int) -> None:
    async with asyncio.timeout(30):
        while served.log.count(f'"event": "{event}"') < times:  # noqa: ASYNC110  it is told in a file
            await asyncio.sleep(0.05)


async def until_both_tell(served: Served) -> None:
    """Wait until the gauges of both processes are in a scrape: each is set once a second."""
    async with asyncio.timeout(10):
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

        first = await until_scraped(served, requests=sent)
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
            assert total(await until_scraped(served, requests=sent), REQUESTS, route=PROXY) == sent
        for killed, process_id in enumerate(processes(served)[-2:], 1):
            os.kill(process_id, signal.SIGKILL)
            await until_logged(served, "process_died", times=killed)
            await send(client, 10)
            last = await until_scraped(served, requests=sent)
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


async def test_hostile_clients_add_no_series_and_see_no_metrics(served: Served) -> None:
    rng = random.Random(6)

    async def annoy(client: aiohttp.ClientSession, count: int) -> None:
        for _ in range(count):
            path = rng.choice(["/", "/api/v1/proxy/", "/api/v1/tokens/", "/docs/"]) + secrets.token_urlsafe(12)
            method = rng.choice(["GET", "POST", "PROPFIND", "".join(rng.choices("ABCXYZ", k=8))])
            headers = gateway_headers(f"znz_{secrets.token_urlsafe(36)}", secrets.token_hex(8))
            async with client.request(method, path, headers=headers) as response:
                await response.read()

    async with aiohttp.ClientSession(served.url) as client:
        async with client.get("/metrics") as response:
            assert response.status == 404
        await annoy(client, 150)
        await until_both_tell(served)
        before = await scrape(served)
        await asyncio.gather(*(annoy(client, 100) for _ in range(10)))
        after = await scrape(served)
    known = {dict(labels).get(label, "") for _, labels in after for label in ("method", "route", "code", "outcome")}
    assert {"other", "unmatched", "404"} <= known
    # The scrape itself has come to be counted, and a process that had no such request before.
    assert {series for series in set(after) - set(before) if ("route", "/metrics") not in series[1]} == set()
    assert total(after, REQUESTS) >= 1100
    assert total(after, "zenzefi_token_checks_total", outcome="malformed") > 100
    assert all(json.loads(line) for line in served.log.splitlines())
