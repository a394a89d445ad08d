"""The short way to the routes that nearly all requests take: past what aiohttp does for what might be otherwise.

Its router, its way to the middlewares and its way to send a response take as long as a query. Here a route whose path
has no variable part is found by one look-up, and a response that is there as a whole is written in one piece.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final, Protocol

from aiohttp import ClientConnectionResetError, hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion11
from aiohttp.typedefs import Handler
from aiohttp.web_urldispatcher import UrlMappingMatchInfo

# Responses of these have no body whatever they say (RFC 9110, sections 8.6 and 15), so that their framing is another.
WITHOUT_BODY: Final = frozenset({204, 304})
_FORBIDDEN: Final = re.compile(r"[\r\n\0]")


class DirectRoute(Protocol):
    """What the server asks before it hands a request to the application."""

    def takes(self, request: web.Request, /) -> bool:
        """Whether the application would hand this request to this route, and needs to do nothing else for it."""

    def handle(self, request: web.Request, /) -> Awaitable[web.StreamResponse]:
        """Do all that the middlewares and the handler would do."""


class SentResponse(web.StreamResponse):
    """A response of which nothing is left to be sent when the handler gives it back."""

    _eof_sent = True


# Those that an application has, in the order in which they are asked.
DIRECT_ROUTES = web.AppKey[list[DirectRoute]]("DIRECT_ROUTES")


class PlainRoutes:
    """A DirectRoute: all routes of an application whose paths have no variable part, with all of its middlewares."""

    def __init__(self, app: web.Application) -> None:
        """Take an application to which nothing is added any more."""
        self._found: dict[tuple[str, str], tuple[UrlMappingMatchInfo, Handler]] = {}
        for route in app.router.routes():
            if isinstance(route.resource, web.PlainResource):
                # What the router would have found. All requests share it: nobody changes what says nothing of one.
                match = UrlMappingMatchInfo({}, route)
                match.add_app(app)
                match.freeze()
                handler: Handler = route.handler
                for middleware in reversed(app.middlewares):
                    handler = partial(middleware, handler=handler)
                self._found[route.method, route.resource.canonical] = match, handler

    def takes(self, request: web.Request) -> bool:
        """Whether the path is one of these as it was sent, and aiohttp has not to invite the body first."""
        message = request._message  # noqa: SLF001  the request's own properties are several times as slow
        return (message.method, message.path.partition("?")[0]) in self._found and hdrs.EXPECT not in message.headers

    def handle(self, request: web.Request) -> Awaitable[web.StreamResponse]:
        """Hand it to the middlewares."""
        message = request._message  # noqa: SLF001  see takes()
        request._match_info, handler = self._found[message.method, message.path.partition("?")[0]]  # noqa: SLF001  as Application._handle does
        return handler(request)


class _Whole(SentResponse):
    def __init__(self, response: web.Response, *, keep_alive: bool) -> None:
        """Stand in for a response that was sent. (The base's own constructor would only cost time.)"""
        self._status = response.status
        self._keep_alive = keep_alive


async def send_at_once(
    request: web.Request, response: web.StreamResponse, fields: Callable[[], Iterable[tuple[str, str]]]
) -> web.StreamResponse:
    """Send a response that is there as a whole, with more header fields; any other is given back for aiohttp to send.

    Raises:
        ClientError, OSError: the client is gone.
    """
    if type(response) is not web.Response or not _is_plain(request, response):
        return response
    headers, body = response.headers, response.body
    assert isinstance(body, bytes)
    headers.update(fields())
    if _FORBIDDEN.search("".join(headers.values())):
        raise ValueError("a header field must not have a line's end in it")
    lines = [f"HTTP/1.1 {response.status} {response.reason}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
    keep_alive = request.keep_alive if response.keep_alive is None else response.keep_alive
    lines.append(f"Content-Length: {len(body)}\r\nDate: {rfc822_formatted_time()}\r\n")
    await write_at_once(request, lines, body, keep_alive=keep_alive)
    return _Whole(response, keep_alive=keep_alive)


async def write_at_once(request: web.BaseRequest, lines: list[str], body: bytes, *, keep_alive: bool) -> None:
    """Write a response of HTTP/1.1: `lines` are its status line and its fields but Connection, each with its end.

    Raises:
        ClientError, OSError: the client is gone.
    """
    lines.append("\r\n" if keep_alive else "Connection: close\r\n\r\n")
    data = "".join(lines).encode("utf-8", "surrogateescape") + body
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ClientConnectionResetError("the client has gone")
    transport.write(data)
    writer = request.writer
    writer.output_size += len(data)
    if request.protocol.writing_paused:
        await writer.drain()


def _is_plain(request: web.Request, response: web.Response) -> bool:
    return (
        isinstance(response.body, bytes)
        and request.version == HttpVersion11
        and request.method != "HEAD"
        and response.status not in WITHOUT_BODY
        and not (response.prepared or response.compression or response.chunked or response.cookies)
        and hdrs.CONTENT_TYPE in response.headers
        and hdrs.CONTENT_LENGTH not in response.headers
    )
