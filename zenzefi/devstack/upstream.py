"""A demo upstream: the private HTTP service that the gateway stands before, for newcomers and for the tests.

Run it with `python -m zenzefi.devstack.upstream --port 9000`. It needs no token: it listens on the loopback address.
"""

import argparse
import asyncio
import contextlib
import gzip
import hashlib
import json
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from aiohttp import ClientConnectionResetError, WSMsgType, hdrs, web

from zenzefi.devstack.ports import LOOPBACK

_BLOCK = bytes(range(256)) * 256  # 64 KiB: large enough that the loop costs nothing beside the copying
_MOST_BYTES = 16 * 1024**3
_MOST_SECONDS = 600.0
_MOST_EVENTS = 1_000_000
_ETAG = '"zenzefi-demo-1"'
_SHUTDOWN_TIMEOUT_S = 0.5  # a demo's open streams are not worth waiting for

_ENDPOINTS = {
    "/": "this list",
    "/certificates/filter": "a small JSON document, which the scope certificates_only may see",
    "/big?bytes=N": "N bytes; &chunked=1 without Content-Length",
    "/upload": "POST or PUT: how many bytes came, and their SHA-256",
    "/events?count=N&interval=SECONDS": "server-sent events",
    "/ws": "WebSocket: sends back what it gets",
    "/cookies": "two Set-Cookie headers",
    "/etag": "200 with an ETag, 304 when If-None-Match names it",
    "/gzip": "a body with Content-Encoding: gzip",
    "/redirect": "302 to /",
    "/slow?seconds=N": "an answer after N seconds",
    "/status/CODE": "an answer with that status",
    "any other": "method, path, query, headers and body as they arrived",
}


def create_upstream() -> web.Application:
    """The demo upstream as an application; run it without decompression, so that it sees the bytes as sent."""
    app = web.Application()
    app.add_routes(
        [
            web.get("/", _get_index),
            web.route("*", "/certificates/filter", _certificates),
            web.get("/big", _get_big),
            web.post("/upload", _receive_upload),
            web.put("/upload", _receive_upload),
            web.get("/events", _get_events),
            web.get("/ws", _get_websocket),
            web.get("/cookies", _get_cookies),
            web.get("/etag", _get_etag),
            web.get("/gzip", _get_gzip),
            web.get("/redirect", _get_redirect),
            web.route("*", "/slow", _slow),
            web.route("*", "/status/{code:[2-5][0-9][0-9]}", _status),
            web.route("*", "/{path:.*}", _echo),
        ]
    )
    return app


@contextlib.asynccontextmanager
async def run_upstream(*, port: int = 0) -> AsyncIterator[int]:
    """Serve the demo upstream on the loopback address; gives the port, a free one when `port` is 0."""
    runner = web.AppRunner(
        create_upstream(), access_log=None, auto_decompress=False, shutdown_timeout=_SHUTDOWN_TIMEOUT_S
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, LOOPBACK, port)
        await site.start()
        bound: int = runner.addresses[0][1]
        yield bound
    finally:
        await runner.cleanup()


async def _get_index(_request: web.Request) -> web.Response:
    return web.json_response({"service": "zenzefi demo upstream", "endpoints": _ENDPOINTS})


async def _certificates(_request: web.Request) -> web.Response:
    certificates = [
        {"id": 1, "subject": "CN=gateway.example", "status": "valid", "not_after": "2031-01-31T00:00:00Z"},
        {"id": 2, "subject": "CN=archive.example", "status": "expired", "not_after": "2021-06-30T00:00:00Z"},
    ]
    return web.json_response({"items": certificates, "total": len(certificates)})


async def _get_big(request: web.Request) -> web.StreamResponse:
    total = int(_number(request, "bytes", default=1024 * 1024, most=_MOST_BYTES))
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "application/octet-stream"})
    if "chunked" in request.query:
        response.enable_chunked_encoding()
    else:
        response.content_length = total
    await response.prepare(request)
    if request.method != hdrs.METH_HEAD:
        left = total
        with contextlib.suppress(ClientConnectionResetError):
            while left > 0:
                await response.write(_BLOCK[:left])
                left -= len(_BLOCK)
    return response


async def _receive_upload(request: web.Request) -> web.Response:
    received, digest = await _digest_body(request)
    return web.json_response({"bytes": received, "sha256": digest})


async def _get_events(request: web.Request) -> web.StreamResponse:
    count = int(_number(request, "count", default=10, most=_MOST_EVENTS))
    interval_s = _number(request, "interval", default=1.0, most=_MOST_SECONDS)
    response = web.StreamResponse(
        headers={hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-store", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    with contextlib.suppress(ClientConnectionResetError):
        for number in range(1, count + 1):
            data = json.dumps({"number": number, "time": datetime.now(UTC).isoformat()})
            await response.write(f"id: {number}\nevent: tick\ndata: {data}\n\n".encode())
            if number < count:
                await asyncio.sleep(interval_s)
    return response


async def _get_websocket(request: web.Request) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse(protocols=("echo",))
    await websocket.prepare(request)
    async for message in websocket:
        if message.type is WSMsgType.TEXT:
            await websocket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await websocket.send_bytes(message.data)
    return websocket


async def _get_cookies(request: web.Request) -> web.Response:
    response = web.json_response({"received": dict(request.cookies)})
    response.headers.add(hdrs.SET_COOKIE, "session=abc123; Path=/; HttpOnly")
    response.headers.add(hdrs.SET_COOKIE, "theme=dark; Path=/; Max-Age=3600")
    return response


async def _get_etag(request: web.Request) -> web.Response:
    if request.headers.get(hdrs.IF_NONE_MATCH) == _ETAG:
        return web.Response(status=304, headers={hdrs.ETAG: _ETAG})
    return web.json_response({"version": 1}, headers={hdrs.ETAG: _ETAG})


async def _get_gzip(_request: web.Request) -> web.Response:
    body = gzip.compress(json.dumps({"compressed": True, "padding": "a" * 2000}).encode(), mtime=0)
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: "application/json", hdrs.CONTENT_ENCODING: "gzip"})


async def _get_redirect(_request: web.Request) -> web.Response:
    return web.Response(status=302, headers={hdrs.LOCATION: "/"})


async def _slow(request: web.Request) -> web.Response:
    seconds = _number(request, "seconds", default=1.0, most=_MOST_SECONDS)
    await asyncio.sleep(seconds)
    return web.json_response({"waited_seconds": seconds})


async def _status(request: web.Request) -> web.Response:
    status = int(request.match_info["code"])
    if status in (204, 304):
        return web.Response(status=status)
    return web.json_response({"status": status}, status=status)


async def _echo(request: web.Request) -> web.Response:
    received, digest = await _digest_body(request)
    path, _, query = request.raw_path.partition("?")
    return web.json_response(
        {
            "method": request.method,
            "path": path,
            "query": query,
            "headers": [[name, value] for name, value in request.headers.items()],
            "body": {"bytes": received, "sha256": digest},
        }
    )


async def _digest_body(request: web.Request) -> tuple[int, str]:
    received, digest = 0, hashlib.sha256()
    async for chunk in request.content.iter_any():
        received += len(chunk)
        digest.update(chunk)
    return received, digest.hexdigest()


def _number(request: web.Request, name: str, *, default: float, most: float) -> float:
    """A number from the query, which must be from 0 to `most`."""
    try:
        number = float(request.query.get(name, default))
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise web.HTTPBadRequest(text=f"{name} must be a number from 0 to {most:g}\n")
    return number


async def _serve(port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with run_upstream(port=port) as bound:
        print(f"The demo upstream listens on http://{LOOPBACK}:{bound}", flush=True)  # noqa: T201  a command's output
        await stopped.wait()


def main() -> None:
    """Run the demo upstream until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m zenzefi.devstack.upstream", description="A demo upstream.")
    parser.add_argument("--port", type=int, default=9000, help="0 chooses a free one (default: %(default)s)")
    asyncio.run(_serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
