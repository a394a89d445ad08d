"""What the client gets, and what is let go of, when one side fails."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from tests.gateway.upstreams import OK, RawUpstream, answer_ok, app_upstream, gateway, hang, raw_upstream, reset
from zenzefi.errors import DatabaseUnavailable
from zenzefi.gateway.models import Outcome, StreamEnd

GET = b"GET /a HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
KEPT = GET.replace(b"Connection: close\r\n", b"")


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http://no-such-host.invalid"])
async def test_an_unreachable_upstream_is_502_at_once(url: str) -> None:
    async with gateway(url.format(port=unused_port())) as proxy:
        begin = time.monotonic()
        raw = await proxy.ask(GET)
        assert time.monotonic() - begin < 1.0
        assert raw.startswith(b"HTTP/1.1 502 ")
        assert b"upstream_unreachable" in raw
        assert (await proxy.last()).outcome is Outcome.UPSTREAM_FAILED
        assert proxy.answers == 0
        assert proxy.connector.in_use == 0


async def test_an_upstream_that_takes_no_connection_is_504_on_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        full = [socket.socket() for _ in range(4)]
        try:
            for filler in full:
                filler.settimeout(0)
                filler.connect_ex(listener.getsockname())
            async with gateway(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_s=0.3) as proxy:
                begin = time.monotonic()
                raw = await proxy.ask(GET)
                assert 0.25 < time.monotonic() - begin < 0.8
                assert raw.startswith(b"HTTP/1.1 504 ")
        finally:
            for filler in full:
                filler.close()


async def test_a_late_head_is_504_on_time_and_the_connection_is_let_go() -> None:
    async with raw_upstream(hang) as upstream, gateway(upstream.url, head_s=0.3) as proxy:
        begin = time.monotonic()
        raw = await proxy.ask(GET)
        assert 0.25 < time.monotonic() - begin < 0.8
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
        begin = time.monotonic()
        assert (await proxy.ask(GET)).startswith(b"HTTP/1.1 504 ")
        assert time.monotonic() - begin < 0.8


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
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: a\x01b\r\n\r\nok", "upstream_bad_answer"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "upstream_bad_answer",
        ),
        (b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 100_000 + b"\r\n\r\n", "upstream_bad_answer"),
    ],
)
async def test_no_answer_or_a_bad_one_is_502(answer: bytes, code: str) -> None:
    async with raw_upstream(says(answer)) as upstream, gateway(upstream.url) as proxy:
        raw = await proxy.ask(GET)
        assert raw.startswith(b"HTTP/1.1 502 ")
        assert proxy.errors == [code]
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
        begin = time.monotonic()
        raw = await proxy.ask(GET)
        assert raw.endswith(b"hello")
        assert 0.25 < time.monotonic() - begin < 0.8
        await upstream.saw_close()
        assert (await proxy.last()).outcome is Outcome.UPSTREAM_FAILED


async def test_a_slow_answer_that_keeps_coming_is_waited_for() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(10):
            await response.write(b"x")
            await asyncio.sleep(0.1)
        return response

    async with (
        app_upstream(web.get("/", drip)) as url,
        gateway(url, head_s=0.3, idle_s=0.3) as proxy,
        aiohttp.ClientSession() as client,
        client.get(proxy.url) as response,
    ):
        assert await response.read() == b"x" * 10


async def test_a_silent_upload_is_408_and_one_that_the_upstream_does_not_take_is_504() -> None:
    async with raw_upstream(hang) as upstream, gateway(upstream.url, idle_s=0.3) as proxy, proxy.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 9\r\n\r\nhalf")
        assert (await client.answer()).status == 408
        assert (await proxy.last()).outcome is Outcome.ABORTED

    async def deaf(upstream: RawUpstream, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        await asyncio.sleep(30)

    async with raw_upstream(deaf) as upstream, gateway(upstream.url, idle_s=0.5) as proxy, proxy.connect() as client:
        size = 32 * 1024 * 1024
        await client.send(b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % size)
        client.writer.write(bytes(size))
        assert (await client.answer()).status == 504
        client.writer.transport.abort()


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
    async with raw_upstream(one_each) as upstream, gateway(upstream.url) as proxy:
        # Three pooled connections, all dead: the second try must not take another of them.
        await asyncio.gather(*(proxy.ask(GET) for _ in range(3)))
        assert upstream.connections == 3
        raw = await proxy.ask(GET.replace(b"GET", method.encode()))
        assert raw.startswith(b"HTTP/1.1 %d " % answers)
        assert len(upstream.heads) == 3 + (2 if answers == 200 else 1)


async def test_a_request_with_a_body_is_never_repeated() -> None:
    async with raw_upstream(one_each) as upstream, gateway(upstream.url) as proxy:
        await proxy.ask(GET)
        raw = await proxy.ask(b"PUT / HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")
        assert raw.startswith(b"HTTP/1.1 502 ")
        assert len(upstream.heads) == 2


async def test_a_new_connection_that_dies_is_not_tried_again() -> None:
    async with raw_upstream(says(b"")) as upstream, gateway(upstream.url) as proxy:
        assert (await proxy.ask(GET)).startswith(b"HTTP/1.1 502 ")
        assert upstream.connections == 1


async def test_what_an_idle_connection_says_answers_nobodys_request() -> None:
    async def says_more(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(OK)
        await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    async with raw_upstream(says_more) as upstream, gateway(upstream.url) as proxy:
        for _ in range(2):
            assert (await proxy.ask(GET)).startswith(b"HTTP/1.1 200 ")
            await asyncio.sleep(0.1)
        assert upstream.connections == 2


async def test_failures_to_connect_open_the_breaker_and_a_probe_closes_it() -> None:
    port = unused_port()
    async with gateway(f"http://127.0.0.1:{port}") as proxy:
        answers = [await proxy.ask(GET) for _ in range(6)]
        assert [answer.split()[1] for answer in answers] == [b"502"] * 5 + [b"503"]
        assert b"Retry-After: 2\r\n" in answers[-1]
        upstream = RawUpstream(lambda reader, writer: answer_ok(upstream, reader, writer))
        server = await asyncio.start_server(upstream.serve, "127.0.0.1", port)
        assert (await proxy.ask(GET)).startswith(b"HTTP/1.1 503 ")
        await asyncio.sleep(proxy.connector.breaker.retry_after_s)
        assert (await proxy.ask(GET)).startswith(b"HTTP/1.1 200 ")
        assert (await proxy.ask(GET)).startswith(b"HTTP/1.1 200 ")
        server.close()


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
    async def flood(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()

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


class TestExpectContinue:
    """The client asks before it sends its body."""

    ASK = b"POST / HTTP/1.1\r\nHost: g\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"

    async def test_the_upstreams_invitation_is_passed_on(self) -> None:
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

    async def test_a_refusal_is_passed_on_without_an_invitation(self) -> None:
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
        async with gateway(f"http://127.0.0.1:{unused_port()}") as proxy, proxy.connect() as client:
            await client.send(self.ASK)
            assert (await client.answer()).status == 502

    async def test_another_expectation_is_417(self) -> None:
        async with raw_upstream(answer_ok) as upstream, gateway(upstream.url) as proxy:
            raw = await proxy.ask(GET.replace(b"\r\n\r\n", b"\r\nExpect: wonders\r\n\r\n"))
            assert raw.startswith(b"HTTP/1.1 417 ")
            assert upstream.heads == []
