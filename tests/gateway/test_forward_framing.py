"""What goes upstream and what comes back, byte by byte."""

import asyncio
import gzip
import re

import aiohttp
import pytest
from aiohttp import web

from tests.gateway.upstreams import OK, RawUpstream, answer_ok, app_upstream, gateway, raw_upstream
from zenzefi.gateway.models import Outcome

GET = b"GET /a HTTP/1.1\r\nHost: gateway.example\r\nConnection: close\r\n\r\n"


def fields(head: bytes) -> list[tuple[str, str]]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return [(name, value) for name, _, value in (line.partition(": ") for line in lines) if name]


async def test_exactly_the_canonical_path_and_the_query_bytes_go_out() -> None:
    async with raw_upstream(answer_ok) as upstream, gateway(f"{upstream.url}/base/path/") as proxy:
        await proxy.ask(
            b"GET /x/../%61/caf%c3%a9/?q=%2e%2e/%2F%zz+;|{} HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
        )
    assert upstream.heads[0].startswith(b"GET /base/path/a/caf%C3%A9/?q=%2e%2e/%2F%zz+;|{} HTTP/1.1\r\n")


async def test_the_upstream_gets_the_clients_fields_and_ours_and_nothing_else() -> None:
    async with raw_upstream(answer_ok) as upstream, gateway(upstream.url) as proxy:
        await proxy.ask(
            b"GET /a HTTP/1.1\r\nHost: gateway.example\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\n"
            b"accept: b\r\nX-Forwarded-For: 1.1.1.1\r\nCookie: c=1\r\nAccept: a\r\nX-Latin: \xe9\r\n\r\n"
        )
        assert fields(upstream.heads[0]) == [
            ("Host", f"127.0.0.1:{upstream.port}"),
            ("accept", "b"),
            ("Cookie", "c=1"),
            ("Accept", "a"),
            ("X-Latin", "é"),
            ("X-Forwarded-For", "203.0.113.9"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "gateway.example"),
            ("X-User-Id", "user-8"),
            ("X-Token-Id", "token-7"),
            ("X-Request-ID", "request-1"),
        ]


CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("framing", "sent", "forwarded"),
    [
        (b"Content-Length: 5", b"hello", b"hello"),
        (b"Content-Length: 0", b"", b""),
        (b"", b"", b""),
        (CHUNKED, b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
        (CHUNKED, b"0\r\n\r\n", b"0\r\n\r\n"),
        (CHUNKED, b"2\r\nhe\r\n0\r\nX-Trailer: 1\r\n\r\n", b"2\r\nhe\r\n0\r\n\r\n"),
    ],
)
async def test_a_request_body_keeps_its_framing(framing: bytes, sent: bytes, forwarded: bytes) -> None:
    bodies = []

    async def answer(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        bodies.append(await reader.readexactly(len(forwarded)))
        writer.write(OK)
        bodies.append(await reader.read())

    async with raw_upstream(answer) as upstream:
        async with gateway(upstream.url) as proxy:
            framing_line = framing + b"\r\n" if framing else b""
            raw = await proxy.ask(
                b"POST /a HTTP/1.1\r\nHost: g\r\nConnection: close\r\n" + framing_line + b"\r\n" + sent
            )
            assert raw.endswith(b"\r\n\r\nok")
        await upstream.saw_close()
        assert bodies == [forwarded, b""]
        assert re.findall(rb"(?i)(?:content-length|transfer-encoding).*(?=\r)", upstream.heads[0]) == (
            [framing] if framing else []
        )


@pytest.mark.parametrize(
    ("status", "framing", "body", "expected_framing", "expected_body"),
    [
        (b"200 OK", b"Content-Length: 2", b"ok", b"Content-Length: 2", b"ok"),
        (b"200 OK", b"Content-Length: 0", b"", b"Content-Length: 0", b""),
        (b"200 OK", CHUNKED, b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n", CHUNKED, b"2\r\nok\r\n0\r\n\r\n"),
        (b"200 OK", CHUNKED, b"0\r\n\r\n", CHUNKED, b"0\r\n\r\n"),
        (b"200 OK", b"Connection: close", b"ok", CHUNKED, b"2\r\nok\r\n0\r\n\r\n"),
        (b"204 No Content", b"X-None: 1", b"", b"", b""),
        (b"204 No Content", b"Content-Length: 0", b"", b"", b""),
        (b"304 Not Modified", b"Content-Length: 9", b"", b"Content-Length: 9", b""),
    ],
)
async def test_an_answer_keeps_its_framing(
    status: bytes, framing: bytes, body: bytes, expected_framing: bytes, expected_body: bytes
) -> None:
    async def answer(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(b"HTTP/1.1 " + status + b"\r\n" + framing + b"\r\n\r\n" + body)
        if b"close" not in framing:
            await reader.read()

    async with raw_upstream(answer) as upstream, gateway(upstream.url) as proxy:
        head, _, raw_body = (await proxy.ask(GET)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status + b"\r\n")
        assert raw_body == expected_body
        framing_lines = re.findall(rb"(?:Content-Length|Transfer-Encoding).*(?=\r)", head)
        assert framing_lines == ([expected_framing] if expected_framing else [])
        assert b"X-Token-Expires-At: 2030-01-01T00:00:00Z" in head
        assert not re.search(rb"Server|Content-Type", head)
        assert (await proxy.last()).bytes_out == (2 if b"o" in body else 0)


async def test_a_head_request_is_answered_with_the_length_and_no_body() -> None:
    async def answer(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await upstream.read_head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")

    async with raw_upstream(answer) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
        for _ in range(2):
            await client.send(b"HEAD /a HTTP/1.1\r\nHost: g\r\n\r\n")
            assert (await client.answer(head_only=True)).headers["content-length"] == "1000"
        assert upstream.connections == 1


async def test_an_http_1_0_client_gets_an_unframed_answer_and_the_close() -> None:
    async def answer(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        await reader.read()

    async with raw_upstream(answer) as upstream, gateway(upstream.url) as proxy:
        raw = await proxy.ask(b"GET / HTTP/1.0\r\nHost: g\r\nConnection: keep-alive\r\n\r\n")
        assert raw.endswith(b"\r\n\r\nok")
        assert b"Transfer-Encoding" not in raw
        assert b"Connection: close" in raw


async def test_duplicates_their_order_and_odd_bytes_come_through() -> None:
    async def answer(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(
            b"HTTP/1.1 418 I'm a t\xe9apot\r\nSet-Cookie: a=1\r\nX-Between: 1\r\nSet-Cookie: b=2; Path=/\r\n"
            b'Content-Disposition: attachment; filename="\xe9.txt"\r\nX-Utf8: \xc3\xa9\r\nContent-Length: 2\r\n'
            b"X-Request-ID: forged\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-Token-Expires-At: never\r\n\r\nok"
        )
        await reader.read()

    async with raw_upstream(answer) as upstream, gateway(upstream.url) as proxy:
        raw = await proxy.ask(GET)
        assert raw.startswith(b"HTTP/1.1 418 I'm a t\xe9apot\r\n")
        assert b"Set-Cookie: a=1\r\nX-Between: 1\r\nSet-Cookie: b=2; Path=/\r\n" in raw
        assert b'filename="\xe9.txt"\r\nX-Utf8: \xc3\xa9\r\n' in raw
        assert b"forged" not in raw
        assert b"X-Hop" not in raw
        assert raw.count(b"X-Token-Expires-At") == 1
        assert raw.endswith(b"ok")


async def test_compressed_bodies_pass_untouched_both_ways() -> None:
    packed = gzip.compress(b"hello " * 1000)

    async def echo(request: web.Request) -> web.Response:
        return web.Response(
            body=await request.read(), headers={"Content-Encoding": request.headers["Content-Encoding"]}
        )

    async with app_upstream(web.post("/", echo)) as url, gateway(url) as proxy:
        async with aiohttp.ClientSession(auto_decompress=False) as client:
            headers = {"Content-Encoding": "gzip"}
            async with client.post(proxy.url, data=packed, headers=headers) as response:
                assert await response.read() == packed
                assert response.headers["Content-Encoding"] == "gzip"
                assert response.headers["Content-Length"] == str(len(packed))
        stream = await proxy.last()
        assert (stream.bytes_in, stream.bytes_out) == (len(packed), len(packed))


async def test_redirects_are_passed_on_not_followed() -> None:
    async def redirect(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://elsewhere.example/"})

    async with (
        app_upstream(web.get("/", redirect)) as url,
        gateway(url) as proxy,
        aiohttp.ClientSession() as client,
        client.get(proxy.url, allow_redirects=False) as response,
    ):
        assert response.status == 302
        assert response.headers["Location"] == "http://elsewhere.example/"


async def test_interim_answers_are_skipped() -> None:
    async def answer(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK)
        await reader.read()

    async with raw_upstream(answer) as upstream, gateway(upstream.url) as proxy:
        raw = await proxy.ask(GET)
        assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Link" not in raw


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, Outcome.SERVED), (404, Outcome.SERVED), (503, Outcome.UPSTREAM_ERROR)]
)
async def test_the_outcome_says_who_failed(status: int, outcome: Outcome) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    async with app_upstream(web.get("/", answer)) as url, gateway(url) as proxy:
        async with aiohttp.ClientSession() as client, client.get(proxy.url) as response:
            assert response.status == status
        assert (await proxy.last()).outcome is outcome


async def test_events_arrive_one_by_one() -> None:
    proceed = asyncio.Event()

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(3):
            await proceed.wait()
            proceed.clear()
            await response.write(b"data: %d\n\n" % number)
        return response

    async with (
        app_upstream(web.get("/", events)) as url,
        gateway(url) as proxy,
        aiohttp.ClientSession() as client,
        client.get(proxy.url) as response,
    ):
        for number in range(3):
            proceed.set()
            assert await response.content.readuntil(b"\n\n") == b"data: %d\n\n" % number
        assert await response.content.read() == b""
