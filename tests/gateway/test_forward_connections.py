"""Connections to the upstream: refused, late, dead in the pool, too many."""

import asyncio
import socket
import time
from typing import NoReturn

import aiohttp
import pytest

from tests.gateway.upstreams import (
    GET,
    OK,
    Gateway,
    RawUpstream,
    answer_ok,
    gateway,
    hang,
    raw_upstream,
    reset,
)
from tests.support.patience import patient_clock
from zenzefi.devstack.ports import find_free_port
from zenzefi.gateway.models import Outcome
from zenzefi.infra.breaker import CircuitBreaker
from zenzefi.infra.http import BREAKER_FAILURES, BREAKER_OPEN_S


def refuse_name(host: str, *_: object, **__: object) -> NoReturn:
    """What the system says of a name that there is not; how long it takes to say so is not for us to promise."""
    raise socket.gaierror(socket.EAI_NONAME, f"no such host: {host}")


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http://no-such-host.invalid"])
async def test_an_unreachable_upstream_is_502_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", refuse_name)
    async with gateway(url.format(port=find_free_port())) as proxy:
        with patient_clock() as clock:
            begin = clock()
            raw = await proxy.ask(GET)
            assert clock() - begin < 1.0
        assert raw.startswith(b"HTTP/1.1 502 ")
        assert b"upstream_unreachable" in raw
        assert (await proxy.last()).outcome is Outcome.UPSTREAM_FAILED
        assert proxy.answers == 0
        assert proxy.connector.in_use == 0


async def ask_and_wait(proxy: Gateway) -> bytes:
    """The answer, which comes when 0.3 s are over."""
    with patient_clock() as clock:
        begin, begin_s = clock(), time.monotonic()
        raw = await proxy.ask(GET)
        assert time.monotonic() - begin_s > 0.25
        assert clock() - begin < 2.0
    return raw


async def test_an_upstream_that_takes_no_connection_is_504_on_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        full = [socket.socket() for _ in range(4)]
        try:
            for filler in full:
                filler.settimeout(0)
                filler.connect_ex(listener.getsockname())
            async with gateway(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_s=0.3) as proxy:
                raw = await ask_and_wait(proxy)
                assert raw.startswith(b"HTTP/1.1 504 ")
        finally:
            for filler in full:
                filler.close()


async def test_a_late_head_is_504_on_time_and_the_connection_is_let_go() -> None:
    async with raw_upstream(hang) as upstream, gateway(upstream.url, head_s=0.3) as proxy:
        raw = await ask_and_wait(proxy)
        assert raw.startswith(b"HTTP/1.1 504 ")
        assert b"upstream_timeout" in raw
        await upstream.saw_close()
        assert proxy.connector.in_use == 0
        assert (await proxy.last()).outcome is Outcome.UPSTREAM_FAILED


async def test_a_dripped_head_is_504_on_time() -> None:
    async def drip(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with raw_upstream(drip) as upstream, gateway(upstream.url, head_s=0.3) as proxy:
        assert (await ask_and_wait(proxy)).startswith(b"HTTP/1.1 504 ")


async def one_each(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request, and drop the connection without a word when the next comes."""
    head = await upstream.read_head(reader)
    writer.write(OK.removesuffix(b"ok") if head.startswith(b"HEAD") else OK)
    await upstream.read_head(reader)
    reset(writer)


@pytest.mark.parametrize(
    ("method", "answers"),
    [("GET", 200), ("HEAD", 200), ("DELETE", 200), ("OPTIONS", 200), ("POST", 502), ("PATCH", 502)],
)
async def test_idempotent_requests_are_repeated_on_a_dead_connection_others_never(method: str, answers: int) -> None:
    all_there = asyncio.Barrier(3)

    async def answer(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if upstream.connections <= 3:  # or the last request might go out on the connection of the first
            await all_there.wait()
        await one_each(upstream, reader, writer)

    async with raw_upstream(answer) as upstream, gateway(upstream.url) as proxy:
        # Three pooled connections, all dead: the second try must not take another of them.
        await asyncio.gather(*(proxy.ask(GET) for _ in range(3)))
        assert upstream.connections == 3
        raw = await proxy.ask(GET.replace(b"GET", method.encode()))
        assert raw.startswith(b"HTTP/1.1 %d " % answers)
        assert len(upstream.heads) == 3 + (2 if answers == 200 else 1)


async def test_a_request_on_a_connection_that_a_health_probe_made_is_repeated() -> None:
    async with (
        raw_upstream(one_each) as upstream,
        gateway(upstream.url) as proxy,
        aiohttp.ClientSession(connector=proxy.connector, connector_owner=False) as session,
    ):
        async with session.head(upstream.url) as response:
            assert response.status == 200
        assert (await proxy.ask(GET)).startswith(b"HTTP/1.1 200 ")
        assert upstream.connections == 2


async def test_a_request_with_a_body_is_never_repeated() -> None:
    async with raw_upstream(one_each) as upstream, gateway(upstream.url) as proxy:
        await proxy.ask(GET)
        raw = await proxy.ask(b"PUT / HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")
        assert raw.startswith(b"HTTP/1.1 502 ")
        assert len(upstream.heads) == 2


async def test_a_new_connection_that_dies_is_not_tried_again() -> None:
    async def hang_up(upstream: RawUpstream, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)

    async with raw_upstream(hang_up) as upstream, gateway(upstream.url) as proxy:
        assert (await proxy.ask(GET)).startswith(b"HTTP/1.1 502 ")
        assert upstream.connections == 1


async def test_what_an_idle_connection_says_answers_nobodys_request() -> None:
    go_on, said = asyncio.Event(), asyncio.Semaphore(0)

    async def says_more(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(OK)
        await go_on.wait()
        go_on.clear()
        writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        said.release()
        await reader.read()

    async with raw_upstream(says_more) as upstream, gateway(upstream.url) as proxy:
        for _ in range(2):
            assert (await proxy.ask(GET)).startswith(b"HTTP/1.1 200 ")
            go_on.set()
            await said.acquire()
            await asyncio.sleep(0.1)  # on its way; the pool announces nothing
        assert upstream.connections == 2


async def test_failures_to_connect_open_the_breaker_and_a_probe_closes_it() -> None:
    port, now_s = find_free_port(), 0.0
    breaker = CircuitBreaker(failure_threshold=BREAKER_FAILURES, open_s=BREAKER_OPEN_S, clock=lambda: now_s)
    async with gateway(f"http://127.0.0.1:{port}", breaker=breaker) as proxy:
        answers = [await proxy.ask(GET) for _ in range(6)]
        assert [answer.split()[1] for answer in answers] == [b"502"] * 5 + [b"503"]
        assert b"Retry-After: 2\r\n" in answers[-1]
        upstream = RawUpstream(lambda reader, writer: answer_ok(upstream, reader, writer))
        server = await asyncio.start_server(upstream.serve, "127.0.0.1", port)
        assert (await proxy.ask(GET)).startswith(b"HTTP/1.1 503 ")
        now_s += breaker.retry_after_s
        assert (await proxy.ask(GET)).startswith(b"HTTP/1.1 200 ")
        assert (await proxy.ask(GET)).startswith(b"HTTP/1.1 200 ")
        server.close()


async def test_a_full_house_is_503_and_hung_requests_do_not_stop_others() -> None:
    async def answer(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await upstream.read_head(reader)
        if b"/hang" in head:
            await reader.read()
        writer.write(OK)

    hanging = GET.replace(b"/a", b"/hang")
    async with raw_upstream(answer) as upstream, gateway(upstream.url, max_connections=51) as proxy:
        clients = [await asyncio.open_connection("127.0.0.1", proxy.port) for _ in range(50)]
        for _, writer in clients:
            writer.write(hanging)
        await proxy.until_in_use(50)
        assert (await proxy.ask(GET)).startswith(b"HTTP/1.1 200 ")
        clients.append(await asyncio.open_connection("127.0.0.1", proxy.port))
        clients[-1][1].write(hanging)
        await proxy.until_in_use(51)
        full = await proxy.ask(GET)
        assert full.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1\r\n" in full
        for _, writer in clients:
            writer.close()
        for _ in clients:
            await upstream.saw_close()
        await proxy.until_in_use(0)
