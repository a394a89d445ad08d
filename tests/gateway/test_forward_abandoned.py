"""Clients that leave before the answer: what they have set going still counts, or no token would ever be used up."""

import asyncio
from dataclasses import replace
from functools import partial

import aiohttp
import pytest
from yarl import URL

from tests.gateway.stack import connect, until
from tests.gateway.upstreams import Gateway, RawUpstream, answers_when, gateway, hang, raw_upstream
from tests.support.inprocess import run_app
from tests.support.people import Person, gateway_headers
from zenzefi.context import Context, open_context
from zenzefi.gateway.models import Outcome
from zenzefi.settings import Settings

HEAD = b"POST /a HTTP/1.1\r\nHost: g\r\n"


@pytest.mark.parametrize("leaves", ["closes", "half-closes"])
@pytest.mark.parametrize(
    "pieces",
    [
        (b"GET /a HTTP/1.1\r\nHost: g\r\n\r\n",),
        (HEAD + b"Content-Length: 4\r\n\r\nlast",),
        (HEAD + b"Content-Length: 8\r\n\r\n", b"not ", b"last"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"4\r\nlast\r\n", b"0\r\n\r\n"),
    ],
    ids=["no body", "whole", "in pieces", "chunked"],
)
async def test_a_request_that_went_out_whole_starts_the_clock_without_its_client(
    pieces: tuple[bytes, ...], leaves: str
) -> None:
    go_on = asyncio.Event()
    body_end = b"" if len(pieces[0]) < 30 else b"0\r\n\r\n" if b"chunked" in pieces[0] else b"last"
    script = answers_when(go_on, body_end=body_end)
    async with raw_upstream(script) as upstream, gateway(upstream.url) as proxy:
        proxy.is_activated = False
        async with proxy.connect() as client:
            for piece in pieces:
                await client.send(piece)
                await asyncio.sleep(0.02)
            await upstream.asked.wait()
            if leaves == "half-closes":
                client.writer.write_eof()
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.05)
        assert proxy.connector.in_use == 1
        go_on.set()
        assert (await proxy.last()).outcome is Outcome.ABORTED
        assert proxy.answers == 1
        assert proxy.streams[0].bytes_out == 0
        await upstream.saw_close()
        assert proxy.connector.in_use == 0


async def test_a_request_that_did_not_go_out_whole_ends_with_its_client() -> None:
    async with raw_upstream(hang) as upstream, gateway(upstream.url) as proxy:
        proxy.is_activated = False
        async with proxy.connect() as client:
            await client.send(HEAD + b"Content-Length: 8\r\n\r\nhalf")
            await upstream.asked.wait()
        await upstream.saw_close()
        assert (await proxy.last()).outcome is Outcome.ABORTED
        assert proxy.answers == 0


async def abandon(proxy: Gateway, upstream: RawUpstream, *, requests: int) -> None:
    """Have many clients ask and leave."""
    connections = [await asyncio.open_connection("127.0.0.1", proxy.port) for _ in range(requests)]
    for _, writer in connections:
        writer.write(HEAD + b"Content-Length: 2\r\n\r\nhi")
    await until(lambda: has_heads(upstream, requests), timeout_s=30)
    for _, writer in connections:
        writer.transport.abort()


async def has_heads(upstream: RawUpstream, number: int) -> bool:
    return len(upstream.heads) == number


async def test_many_abandoned_requests_end_on_time_and_leave_nothing_behind() -> None:
    async with raw_upstream(hang) as upstream, gateway(upstream.url, head_s=3.0) as proxy:
        proxy.is_activated = False
        tasks = asyncio.all_tasks()
        await abandon(proxy, upstream, requests=100)
        outcomes = [(await proxy.last()).outcome for _ in range(100)]
        assert outcomes == [Outcome.ABORTED] * 100
        assert proxy.answers == 0
        assert proxy.connector.in_use == 0
        for _ in range(100):
            await upstream.saw_close()
        await until(lambda: is_subset(tasks), timeout_s=30)


async def is_subset(tasks: set[asyncio.Task[object]]) -> bool:
    return asyncio.all_tasks() <= tasks


async def test_a_drain_waits_for_the_answers_to_abandoned_requests_but_not_beyond_its_time() -> None:
    go_on = asyncio.Event()
    async with (
        raw_upstream(answers_when(go_on, body_end=b"hi")) as upstream,
        gateway(upstream.url, head_s=30.0) as proxy,
    ):
        proxy.is_activated = False
        await abandon(proxy, upstream, requests=3)
        draining = asyncio.create_task(proxy.runner.drain(timeout_s=10))
        await asyncio.sleep(0.2)
        assert not draining.done()
        go_on.set()
        async with asyncio.timeout(30):
            await draining
        assert proxy.answers == 3


async def test_a_drain_whose_time_is_up_cuts_abandoned_requests() -> None:
    async with raw_upstream(hang) as upstream, gateway(upstream.url, head_s=30.0) as proxy:
        proxy.is_activated = False
        await abandon(proxy, upstream, requests=3)
        async with asyncio.timeout(30):
            assert await proxy.runner.drain(timeout_s=0.2) == 3
            await proxy.runner.cleanup()
        assert proxy.finished.qsize() == 3  # so that they are metered before the process stores its last counters
        assert proxy.connector.in_use == 0


async def test_a_token_whose_requests_were_all_abandoned_is_used_and_not_refunded(
    settings: Settings, ctx: Context, person: Person
) -> None:
    await person.top_up("1.00")
    bought = await person.buy_token(1)
    lines = "".join(f"{name}: {value}\r\n" for name, value in gateway_headers(bought["token"]).items())
    head = f"POST /api/v1/proxy/a HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n{lines}\r\nhi".encode()
    go_on = asyncio.Event()
    async with (
        raw_upstream(answers_when(go_on, body_end=b"hi")) as upstream,
        open_context(replace(settings, upstream_url=upstream.url)) as other,
        run_app(other) as url,
        connect(url) as client,
    ):
        for number in range(1, 6):
            _, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
            writer.write(head)
            await until(partial(has_heads, upstream, number), timeout_s=30)
            writer.transport.abort()
        await asyncio.sleep(0.05)  # the event loop hears of the last one's end before it hears of the answer
        go_on.set()
        await until(lambda: is_active(client, bought["token"]), timeout_s=30)
    status, problem = await person.request("DELETE", f"/api/v1/tokens/{bought['id']}")
    assert (status, problem["code"]) == (409, "token_activated")
    await until(lambda: has_aborted(ctx, person, requests=5), timeout_s=30)


async def is_active(client: aiohttp.ClientSession, token: str) -> bool:
    async with client.get("/api/v1/proxy/status", headers={"X-Access-Token": token}) as response:
        return bool((await response.json())["status"] == "active")


async def has_aborted(ctx: Context, person: Person, *, requests: int) -> bool:
    query = "SELECT sum(requests) FROM usage_batches WHERE user_id = $1::text::uuid AND outcome = 'aborted'"
    async with ctx.connection() as conn:
        return bool(await conn.fetchval(query, person.user_id) == requests)
