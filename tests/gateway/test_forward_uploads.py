"""Requests with a body: slow, broken, answered early, or sent only when invited."""

import asyncio

import pytest
from aiohttp import web

from tests.gateway.upstreams import (
    GET,
    LONG_S,
    OK,
    SILENCE_S,
    RawUpstream,
    answer_ok,
    app_upstream,
    gateway,
    hang,
    raw_upstream,
)
from zenzefi.devstack.ports import find_free_port
from zenzefi.gateway import relay
from zenzefi.gateway.models import Outcome


async def test_a_silent_upload_is_408_and_one_that_the_upstream_does_not_take_is_504() -> None:
    async with raw_upstream(hang) as upstream, gateway(upstream.url, idle_s=0.3) as proxy, proxy.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 9\r\n\r\nhalf")
        assert (await client.answer()).status == 408
        assert (await proxy.last()).outcome is Outcome.ABORTED

    async def deaf(upstream: RawUpstream, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        await asyncio.sleep(30)

    async with (
        raw_upstream(deaf) as upstream,
        gateway(upstream.url, idle_s=SILENCE_S) as proxy,
        proxy.connect() as client,
    ):
        size = 32 * 1024 * 1024
        await client.send(b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % size)
        client.writer.write(bytes(size))
        assert (await client.answer()).status == 504
        client.writer.transport.abort()


async def test_a_client_that_leaves_during_its_upload_cancels_the_request() -> None:
    async with raw_upstream(hang) as upstream, gateway(upstream.url) as proxy:
        async with proxy.connect() as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 9\r\n\r\nhalf")
            await upstream.asked.wait()
        await upstream.saw_close()
        assert (await proxy.last()).outcome is Outcome.ABORTED


async def test_a_malformed_upload_is_400() -> None:
    async with raw_upstream(hang) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await upstream.asked.wait()
        await client.send(b"zz\r\nhi\r\n")
        assert (await client.answer()).status == 400
        await upstream.saw_close()


async def test_an_early_answer_to_an_upload_is_passed_on() -> None:
    async def refuse(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await reader.read()

    async with raw_upstream(refuse) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 1000000\r\n\r\nsome")
        answer = await client.answer()
        assert (answer.status, answer.body) == (413, b"big")
        assert answer.headers["connection"] == "close"
        await upstream.saw_close()
        stream = await proxy.last()
        assert (stream.outcome, stream.bytes_in, stream.bytes_out) == (Outcome.SERVED, 4, 3)


async def test_both_directions_may_flow_at_once() -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for chunk in request.content.iter_any():
            await response.write(chunk)
        return response

    async with app_upstream(web.post("/", echo)) as url, gateway(url) as proxy, proxy.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n")
        for word in (b"one", b"two"):
            await client.send(b"3\r\n" + word + b"\r\n")
            assert (await client.reader.readuntil(word + b"\r\n")).endswith(b"3\r\n" + word + b"\r\n")
        await client.send(b"0\r\n\r\n")
        assert await client.rest() == b"0\r\n\r\n"


class TestExpectContinue:
    """The client asks before it sends its body."""

    ASK = b"POST / HTTP/1.1\r\nHost: g\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"

    async def test_the_upstreams_invitation_is_passed_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(relay, "CONTINUE_WAIT_S", LONG_S)  # it is the upstream's, not that of a gateway tired of it

        async def invite(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await upstream.read_head(reader)
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert await reader.readexactly(2) == b"hi"
            writer.write(OK)

        async with raw_upstream(invite) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
            await client.send(self.ASK)
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"hi")
            assert (await client.answer()).body == b"ok"
            assert b"Expect: 100-continue\r\n" in upstream.heads[0]

    async def test_an_upstream_that_does_not_invite_gets_the_body_all_the_same(self) -> None:
        async def ignore(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await upstream.read_head(reader)
            assert await reader.readexactly(2) == b"hi"
            writer.write(OK)

        async with raw_upstream(ignore) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
            await client.send(self.ASK)
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"hi")
            assert (await client.answer()).body == b"ok"

    async def test_a_refusal_is_passed_on_without_an_invitation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(relay, "CONTINUE_WAIT_S", LONG_S)  # however late a machine that stands still makes it

        async def refuse(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await upstream.read_head(reader)
            writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
            await reader.read()

        async with raw_upstream(refuse) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
            await client.send(self.ASK)
            answer = await client.answer()
            assert answer.status == 401
            assert answer.headers["connection"] == "close"
            assert proxy.streams[0].bytes_in == 0
            await upstream.saw_close()

    async def test_an_unreachable_upstream_invites_nobody(self) -> None:
        async with gateway(f"http://127.0.0.1:{find_free_port()}") as proxy, proxy.connect() as client:
            await client.send(self.ASK)
            assert (await client.answer()).status == 502

    async def test_another_expectation_is_417(self) -> None:
        async with raw_upstream(answer_ok) as upstream, gateway(upstream.url) as proxy:
            raw = await proxy.ask(GET.replace(b"\r\n\r\n", b"\r\nExpect: wonders\r\n\r\n"))
            assert raw.startswith(b"HTTP/1.1 417 ")
            assert upstream.heads == []
