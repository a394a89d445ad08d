"""A real HTTP proxy in front of an S3 server, which fails at the requests that a test names.

Clients sign the host that they connect to, so the proxy hands the Host header on as it came.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from io import BytesIO

import aiohttp
from aiohttp import web
from yarl import URL

_ERROR = b'<?xml version="1.0"?><Error><Code>%s</Code><Message>by the test</Message></Error>'
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}


class Fault(Enum):
    """What happens to a request."""

    REFUSE = auto()
    """500, and the server never hears of it."""
    FORGET = auto()
    """It takes effect, and the answer is 500."""
    DENY = auto()
    """403, as Object Lock and keys without the right answer."""
    UNKNOWN = auto()
    """501: the server does not know the feature."""
    CUT = auto()
    """The connection ends in the midst of the answer's body."""
    FLIP = auto()
    """One bit of the answer's body is another."""
    HOLD = auto()
    """It waits until the test lets it go."""


_REFUSALS = {
    Fault.REFUSE: (500, b"InternalError"),
    Fault.DENY: (403, b"AccessDenied"),
    Fault.UNKNOWN: (501, b"NotImplemented"),
}


@dataclass(slots=True, kw_only=True)
class Rule:
    """A fault, for which requests, and for how many of them (for ever: None)."""

    fault: Fault
    matches: Callable[[web.Request], bool]
    times: int | None
    met: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    count: int = 0


class FaultyS3:
    """The proxy. `requests` says what came, as ``PUT data ?partNumber=1&uploadId=…``."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._rules: list[Rule] = []
        self._client: aiohttp.ClientSession | None = None
        self.url = ""
        self.requests: list[str] = []

    def inject(self, fault: Fault, matches: Callable[[web.Request], bool], *, times: int | None = 1) -> Rule:
        """Let requests fail from now on; the first rule that matches counts."""
        rule = Rule(fault=fault, matches=matches, times=times)
        self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Be a plain proxy again."""
        for rule in self._rules:
            rule.released.set()
        self._rules.clear()

    @asynccontextmanager
    async def run(self) -> AsyncIterator["FaultyS3"]:
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(application, auto_decompress=False, shutdown_timeout=0.1)
        async with aiohttp.ClientSession(auto_decompress=False) as self._client:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            try:
                yield self
            finally:
                self.clear()
                await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.raw_path}")
        rule = self._take(request)
        fault = rule.fault if rule else None
        if rule is not None:
            rule.met.set()
        if fault in _REFUSALS:
            await request.read()
            return _refusal(*_REFUSALS[fault])
        if fault is Fault.HOLD:
            assert rule is not None
            await rule.released.wait()
        assert self._client is not None
        async with self._client.request(
            request.method,
            URL(self._target + request.raw_path, encoded=True),
            headers={name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP},
            data=BytesIO(await request.read()),
            allow_redirects=False,
            skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
        ) as answer:
            if fault is Fault.FORGET:
                await answer.read()
                return _refusal(500, b"InternalError")
            return await _hand_on(request, answer, fault)

    def _take(self, request: web.Request) -> Rule | None:
        for rule in self._rules:
            if (rule.times is None or rule.count < rule.times) and rule.matches(request):
                rule.count += 1
                return rule
        return None


async def _hand_on(request: web.Request, answer: aiohttp.ClientResponse, fault: Fault | None) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status)
    for name, value in answer.headers.items():
        if name.lower() not in _HOP_BY_HOP:
            response.headers[name] = value
    body = await answer.read()
    if request.method != "HEAD":
        response.content_length = len(body)
    await response.prepare(request)
    if fault is Fault.CUT:
        await response.write(body[: len(body) // 2])
        assert request.transport is not None
        request.transport.close()
        return response
    if fault is Fault.FLIP:
        body = bytes([body[0] ^ 1]) + body[1:]
    await response.write(body)
    await response.write_eof()
    return response


def _refusal(status: int, code: bytes) -> web.Response:
    return web.Response(status=status, body=_ERROR % code, content_type="application/xml")
