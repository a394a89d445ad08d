"""The short way says what aiohttp's own way says: the same application, served both ways, on the same bytes."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from tests.server.support import HOST, Client
from zenzefi.server.runner import HardenedRunner
from zenzefi.web.direct import DIRECT_ROUTES, DirectRoute, PlainRoutes, send_at_once

FIELDS = (("X-Request-ID", "1"), ("X-Frame-Options", "DENY"))
IS_DIRECT = web.AppKey("IS_DIRECT", bool)


@web.middleware
async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    return await send_at_once(request, response, lambda: FIELDS) if request.app[IS_DIRECT] else response


async def set_fields(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(FIELDS)
    response.headers.pop("Server", None)


async def plain(request: web.Request) -> web.Response:
    return web.Response(text=f"höhe {request.query_string}", status=418, headers={"X-Frame-Options": "SAMEORIGIN"})


async def cookie(_request: web.Request) -> web.Response:
    response = web.Response(text="sweet")
    response.set_cookie("name", "value")
    return response


async def nothing(_request: web.Request) -> web.Response:
    return web.Response(status=204)


async def compressed(_request: web.Request) -> web.Response:
    response = web.Response(text="a" * 4096)
    response.enable_compression(web.ContentCoding.gzip)
    return response


async def chunked(_request: web.Request) -> web.Response:
    response = web.Response(text="pieces")
    response.enable_chunked_encoding()
    return response


async def closing(_request: web.Request) -> web.Response:
    response = web.Response(text="the last one")
    response.force_close()
    return response


async def read(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def split(_request: web.Request) -> web.Response:
    return web.Response(text="", headers={"Location": "/\r\nSet-Cookie: forged=1"})


HANDLERS = (plain, cookie, nothing, compressed, chunked, closing, read)


@contextlib.asynccontextmanager
async def served(*, is_direct: bool) -> AsyncIterator[int]:
    app = web.Application(middlewares=[edge])
    app[IS_DIRECT] = is_direct
    app.on_response_prepare.append(set_fields)
    for handler in (*HANDLERS, split):
        app.router.add_get(f"/{handler.__name__}", handler)
        app.router.add_post(f"/{handler.__name__}", handler)
    if is_direct:
        routes: list[DirectRoute] = [PlainRoutes(app)]
        app[DIRECT_ROUTES] = routes
    runner = HardenedRunner(app)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    try:
        await web.SockSite(runner, listener).start()
        yield listener.getsockname()[1]
    finally:
        await runner.cleanup()


async def exchange(port: int, sent: bytes) -> list[bytes]:
    """All that comes back, but the date."""
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    await client.send(sent + b"GET /closing HTTP/1.1\r\n" + HOST + b"\r\n")
    received = await client.rest()
    await client.close()
    lines = received.split(b"\r\n")
    # In the order in which they stand there nothing is promised, but the bodies stand between empty lines.
    return sorted(line.lower() for line in lines if not line.lower().startswith(b"date:"))


@pytest.mark.parametrize(
    "path", [f"/{handler.__name__}" for handler in HANDLERS] + ["/plain?a=%2F", "/nowhere", "/%70lain"]
)
@pytest.mark.parametrize(
    ("method", "version", "more"),
    [
        ("GET", "1.1", ""),
        ("GET", "1.0", ""),
        ("GET", "1.0", "Connection: keep-alive\r\n"),
        ("GET", "1.1", "Connection: close\r\n"),
        ("HEAD", "1.1", ""),
        ("PUT", "1.1", "Content-Length: 0\r\n"),
        ("POST", "1.1", "Content-Length: 4\r\n\r\nbody"),
        ("POST", "1.1", "Expect: 100-continue\r\nContent-Length: 4\r\n\r\nbody"),
    ],
)
async def test_both_ways_say_the_same(method: str, version: str, more: str, path: str) -> None:
    head = f"{method} {path} HTTP/{version}\r\n".encode() + HOST + more.encode()
    sent = head if b"\r\n\r\n" in head else head + b"\r\n"
    async with served(is_direct=True) as direct, served(is_direct=False) as plainly:
        assert await exchange(direct, sent) == await exchange(plainly, sent)


@pytest.mark.parametrize("is_direct", [True, False])
async def test_no_field_begins_a_line_of_its_own(is_direct: bool) -> None:
    async with served(is_direct=is_direct) as port:
        lines = await exchange(port, b"GET /split HTTP/1.1\r\n" + HOST + b"\r\n")
    assert b"set-cookie: forged=1" not in lines
    assert not any(line.startswith(b"location") for line in lines)
