"""The floor of the gateway: `python -m loadtest.bare_proxy PORT UPSTREAM_URL`, a reverse proxy that adds nothing.

No authentication, limits, metering, metrics or logs; what the gateway adds is measured against it.
"""

import sys
from collections.abc import AsyncIterator

import uvloop
from aiohttp import ClientConnectionResetError, ClientSession, DummyCookieJar, TCPConnector, web
from yarl import URL

from zenzefi.devstack.ports import LOOPBACK

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_SESSION = web.AppKey("session", ClientSession)
_UPSTREAM = web.AppKey("upstream", str)


async def forward(request: web.Request) -> web.StreamResponse:
    """Send the request upstream and the answer back, streaming both ways."""
    headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP]
    url = URL(request.app[_UPSTREAM] + request.raw_path, encoded=True)
    body = request.content if request.can_read_body else None
    async with request.app[_SESSION].request(
        request.method, url, headers=headers, data=body, allow_redirects=False
    ) as upstream:
        response = web.StreamResponse(status=upstream.status, reason=upstream.reason)
        for name, value in upstream.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                response.headers.add(name, value)
        try:
            await response.prepare(request)
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
        except ClientConnectionResetError:
            pass  # the load generator hung up
        return response


async def _session(app: web.Application) -> AsyncIterator[None]:
    async with ClientSession(
        connector=TCPConnector(limit=0), cookie_jar=DummyCookieJar(), auto_decompress=False
    ) as client:
        app[_SESSION] = client
        yield


def main() -> None:
    """Serve until SIGTERM."""
    app = web.Application(client_max_size=0)
    app[_UPSTREAM] = sys.argv[2].rstrip("/")
    app.cleanup_ctx.append(_session)
    app.router.add_route("*", "/{path:.*}", forward)
    uvloop.install()
    web.run_app(app, host=LOOPBACK, port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
