"""Requests that end early: the client goes, does not read, or may not go on."""

import asyncio
import time

import pytest
from aiohttp import web

from tests.gateway.upstreams import (
    GET,
    KEPT,
    SILENCE_S,
    RawUpstream,
    answer_ok,
    app_upstream,
    gateway,
    hang,
    raw_upstream,
)
from zenzefi.errors import DatabaseUnavailable
from zenzefi.gateway.models import Outcome, StreamEnd


async def flood(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with bytes for as long as they are taken."""
    await upstream.read_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(bytes(65536))
        await writer.drain()


async def test_a_client_that_leaves_while_the_upstream_thinks_cancels_the_request() -> None:
    async with raw_upstream(hang) as upstream, gateway(upstream.url) as proxy:
        async with proxy.connect() as client:
            await client.send(GET)
            await upstream.asked.wait()
        await upstream.saw_close()
        assert (await proxy.last()).outcome is Outcome.ABORTED
        assert proxy.connector.in_use == 0


async def test_a_client_that_leaves_during_the_answer_cancels_the_request() -> None:
    async def endless(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nfirst")
        await reader.read()

    async with raw_upstream(endless) as upstream, gateway(upstream.url) as proxy:
        async with proxy.connect() as client:
            await client.send(GET)
            await client.reader.readuntil(b"first")
        await upstream.saw_close()
        assert (await proxy.last()).outcome is Outcome.ABORTED


async def test_a_client_that_takes_nothing_of_its_answer_is_given_up() -> None:
    async with (
        raw_upstream(flood) as upstream,
        gateway(upstream.url, idle_s=SILENCE_S) as proxy,
        proxy.connect() as client,
    ):
        await client.send(KEPT)
        assert (await proxy.last()).outcome is Outcome.ABORTED
        await upstream.saw_close()


async def test_a_client_that_takes_its_answer_slowly_is_served() -> None:
    size = 16 * 1024 * 1024

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=bytes(size))

    async with app_upstream(web.get("/a", large)) as url, gateway(url, idle_s=2.0) as proxy, proxy.connect() as client:
        await client.send(KEPT)
        await client.reader.readuntil(b"\r\n\r\n")
        received = 0
        begin = time.monotonic()
        while received < size:
            piece = await client.reader.read(128 * 1024)
            assert piece, f"it broke off after {received} bytes"
            received += len(piece)
            await asyncio.sleep(0.02)
        assert time.monotonic() - begin > 2.2
        assert (await proxy.last()).outcome is Outcome.SERVED


@pytest.mark.parametrize("reason", [StreamEnd.REVOKED, StreamEnd.EXPIRED])
async def test_the_end_of_the_token_ends_a_waiting_request_with_401(reason: StreamEnd) -> None:
    async with raw_upstream(hang) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
        await client.send(KEPT)
        await upstream.asked.wait()
        proxy.streams[0].end(reason)
        answer = await client.answer()
        assert answer.status == 401
        assert answer.headers["www-authenticate"]
        await upstream.saw_close()
        assert proxy.streams[0].outcome is Outcome.ENDED


async def test_the_end_of_the_token_breaks_a_running_answer_off() -> None:
    async def endless(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nfirst")
        await reader.read()

    async with raw_upstream(endless) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
        await client.send(KEPT)
        await client.reader.readuntil(b"first\r\n")
        proxy.streams[0].end(StreamEnd.REVOKED)
        assert await client.rest() == b""
        await upstream.saw_close()
        assert (await proxy.last()).outcome is Outcome.ENDED


async def test_the_end_of_the_token_reaches_a_client_that_does_not_read() -> None:
    async with raw_upstream(flood) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
        await client.send(KEPT)
        await client.reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.3)
        proxy.streams[0].end(StreamEnd.REVOKED)
        assert (await proxy.last()).outcome is Outcome.ENDED
        await upstream.saw_close()


async def test_a_token_that_ended_before_the_request_went_out_sends_nothing() -> None:
    async with raw_upstream(answer_ok) as upstream, gateway(upstream.url) as proxy:
        proxy.ends_at_once = StreamEnd.REVOKED
        raw = await proxy.ask(GET)
        assert raw.startswith(b"HTTP/1.1 401 ")
        assert upstream.heads == []


async def test_an_error_after_the_upstream_answered_replaces_the_answer() -> None:
    async with raw_upstream(answer_ok) as upstream, gateway(upstream.url) as proxy:
        proxy.refuses = DatabaseUnavailable()
        assert (await proxy.ask(GET)).startswith(b"HTTP/1.1 503 ")
        assert proxy.connector.in_use == 0


async def test_nothing_is_asked_before_the_upstream_has_answered() -> None:
    async with raw_upstream(hang) as upstream, gateway(upstream.url, head_s=0.2) as proxy:
        assert (await proxy.ask(GET)).startswith(b"HTTP/1.1 504 ")
        assert proxy.answers == 0
