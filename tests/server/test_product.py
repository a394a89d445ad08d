"""The product itself behind the protocol: its refusals look like its other problems, a restart loses nothing."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
from yarl import URL

from tests.server.supervised import Load
from tests.server.support import HOST, Client
from tests.support.serving import ENDED_TIMEOUT_S, Served
from zenzefi.context import Context
from zenzefi.health import probes
from zenzefi.health.models import HealthStatus
from zenzefi.health.service import SNAPSHOT_KEY, refresh_health

LOGIN = b"POST /api/v1/auth/login HTTP/1.1\r\nContent-Type: application/json\r\n" + HOST


async def connect(app_url: str) -> Client:
    url = URL(app_url)
    assert url.host is not None
    return Client(*await asyncio.open_connection(url.host, url.port))


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (LOGIN + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /api/v1/proxy/x HTTP/1.1\r\nX-Access-Token: a\r\nX-Access-Token: b\r\n" + HOST + b"\r\n", 400),
        (b"GET /api/v1/proxy/x HTTP/1.1\r\nx_device_id: 12345678\r\n" + HOST + b"\r\n", 400),
        (b"GET http://other.test/health HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"TRACE /api/v1/proxy/x HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"CONNECT other.test:80 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    ],
)
async def test_refusals_look_like_every_other_problem(app_url: str, sent: bytes, status: int) -> None:
    client = await connect(app_url)
    await client.send(sent)
    refusal = await client.answer()
    other = await connect(app_url)
    await other.send(b"GET /nowhere HTTP/1.1\r\n" + HOST + b"\r\n")
    problem = await other.answer()
    assert refusal.status == refusal.problem()["status"] == status
    assert refusal.problem().keys() == problem.problem().keys()
    assert refusal.headers.keys() == problem.headers.keys() | {"connection"} | ({"allow"} if status == 405 else set())
    await client.close()
    await other.close()


async def test_body_that_breaks_off_under_a_handler_is_a_bad_request(app_url: str) -> None:
    client = await connect(app_url)
    await client.send(LOGIN + b'Transfer-Encoding: chunked\r\n\r\n4\r\n{"em\r\n')
    await asyncio.sleep(0.2)  # the handler waits for the rest
    await client.send(b"XX\r\n")
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    await client.close()


@pytest.fixture
async def _health_was_found(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The snapshot that /health tells: without one each process looks for itself, and a machine that stalls is down."""
    monkeypatch.setattr(probes, "PROBE_TIMEOUT_S", 30.0)
    assert await refresh_health(ctx) is HealthStatus.HEALTHY
    yield
    await ctx.redis.run("DEL", SNAPSHOT_KEY)


@pytest.mark.usefixtures("_health_was_found")
async def test_rolling_restarts_of_the_product_lose_no_request(
    serving: Callable[..., AbstractAsyncContextManager[Served]],
) -> None:
    async with serving(processes=2) as served:
        port = URL(served.url).port
        assert port is not None
        load = Load(port, path="/health")
        loading = asyncio.create_task(load.run(keeping=4, fresh=1))
        for restart in (1, 2):
            served.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(60):
                while _count(served, "rolling_restart_done") < restart:  # noqa: ASYNC110  it is told in a file
                    await asyncio.sleep(0.1)
        while load.answered <= 100:  # noqa: ASYNC110  however slow the machine is
            await asyncio.sleep(0.05)
        load.is_over = True
        await loading
        assert load.failures == []
        served.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(served.process.wait, ENDED_TIMEOUT_S) == 0


def _count(served: Served, event: str) -> int:
    whole_lines = served.log.rpartition("\n")[0].splitlines()
    return sum(json.loads(line)["event"] == event for line in whole_lines)
