"""An upstream that does not answer, or badly: what the client gets, and what is let go of."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from tests.gateway.upstreams import (
    GET,
    RawUpstream,
    app_upstream,
    gateway,
    raw_upstream,
    reset,
)
from tests.support.patience import patient_clock
from zenzefi.gateway.models import Outcome


def says(
    answer: bytes, *, then: Callable[[asyncio.StreamWriter], None] = asyncio.StreamWriter.close
) -> Callable[..., Awaitable[None]]:
    """A script that answers every request with these bytes and then closes, or does something else."""

    async def script(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(0.05)
        then(writer)

    return script


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "upstream_unreachable"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "upstream_unreachable"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "upstream_bad_answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "upstream_bad_answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "upstream_bad_answer"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "upstream_bad_answer",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: a\x01b\r\n\r\nok", "upstream_bad_answer"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "upstream_bad_answer",
        ),
        (b"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n", "upstream_bad_answer"),
        (b"HTTP/1.1 000 Odd\r\nContent-Length: 0\r\n\r\n", "upstream_bad_answer"),
        (b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 100_000 + b"\r\n\r\n", "upstream_bad_answer"),
    ],
)
async def test_no_answer_or_a_bad_one_is_502(answer: bytes, code: str) -> None:
    async with raw_upstream(says(answer)) as upstream, gateway(upstream.url) as proxy:
        raw = await proxy.ask(GET)
        assert raw.startswith(b"HTTP/1.1 502 ")
        assert proxy.errors == [code]
        assert proxy.answers == 0  # an error of ours starts no clock
        assert proxy.connector.in_use == 0


@pytest.mark.parametrize(
    ("head", "then"),
    [
        (b"Content-Length: 100000", asyncio.StreamWriter.close),
        (b"Content-Length: 100000", reset),
        (b"Transfer-Encoding: chunked", asyncio.StreamWriter.close),
        (b"Transfer-Encoding: chunked", reset),
        (b"X-Until: close", reset),
    ],
)
async def test_a_truncated_answer_never_looks_whole(head: bytes, then: Callable[[asyncio.StreamWriter], None]) -> None:
    body = b"400\r\n" + b"x" * 1024 + b"\r\n"
    script = says(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body, then=then)
    async with raw_upstream(script) as upstream, gateway(upstream.url) as proxy, aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.ClientError):  # noqa: PT012  the head may come before the break or not at all
            async with client.get(proxy.url) as response:
                assert response.status == 200
                await response.read()
        assert (await proxy.last()).outcome is Outcome.UPSTREAM_FAILED
        assert proxy.connector.in_use == 0


async def test_a_client_of_http_1_0_sees_a_truncated_answer_as_a_reset() -> None:
    """An unframed answer has no other way to say that it is not whole."""
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    async with raw_upstream(says(answer)) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


async def test_an_answer_that_was_whole_before_the_reset_is_whole() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    async with raw_upstream(says(answer, then=reset)) as upstream, gateway(upstream.url) as proxy:
        assert (await proxy.ask(GET)).endswith(b"\r\n\r\nhello")


async def test_silence_in_the_middle_of_an_answer_breaks_it_off_on_time() -> None:
    async def stall(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await reader.read()

    async with raw_upstream(stall) as upstream, gateway(upstream.url, idle_s=0.3) as proxy:
        with patient_clock() as clock:
            begin, begin_s = clock(), time.monotonic()
            raw = await proxy.ask(GET)
            assert time.monotonic() - begin_s > 0.25
            assert clock() - begin < 2.0
        assert raw.endswith(b"hello")
        await upstream.saw_close()
        assert (await proxy.last()).outcome is Outcome.UPSTREAM_FAILED


async def test_a_broken_chunk_breaks_the_answer_off_at_once() -> None:
    async def break_chunk(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await asyncio.sleep(0.1)
        writer.write(b"not a size\r\n")
        await reader.read()

    async with raw_upstream(break_chunk) as upstream, gateway(upstream.url) as proxy:
        with patient_clock() as clock:
            begin = clock()
            raw = await proxy.ask(GET)
            assert clock() - begin < 2.0
        assert raw.endswith(b"\r\n5\r\nhello\r\n")
        await upstream.saw_close()
        assert (await proxy.last()).outcome is Outcome.UPSTREAM_FAILED
        assert proxy.connector.in_use == 0


async def test_a_slow_answer_that_keeps_coming_is_waited_for() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(10):
            await response.write(b"x")
            await asyncio.sleep(0.3)
        return response

    async with (
        app_upstream(web.get("/", drip)) as url,
        gateway(url, head_s=2.0, idle_s=2.0) as proxy,
        aiohttp.ClientSession() as client,
        client.get(proxy.url) as response,
    ):
        assert await response.read() == b"x" * 10
