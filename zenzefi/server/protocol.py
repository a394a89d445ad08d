"""aiohttp's server with a guard before it: framing checks, deadlines, refusals as problem documents, a drain.

This module, framer.py, serving.py and runner.py are the only ones that lean on aiohttp's private parts (3.14):
RequestHandler's ``_parser``, ``_messages``, ``_waiter``, ``_current_request``, ``_payload_parser``, ``_request_count``,
``_request_in_progress``, ``_task_handler``, ``_force_close``, ``_reading_paused``, ``_buffer_paused`` and
``_make_error_handler``, a request's ``_message``, and the web_protocol module's ``ERROR`` and ``_ErrInfo``.
tests/server walks through each of them.

**When the client goes away.** Handlers are not cancelled then (a money handler must never be half done). A handler that
waits for something on the client's behalf may set ``request.protocol.on_disconnect`` to a function without parameters:
it is called once, in the event loop, as soon as the connection is lost while that request is being handled. It cannot
be noticed while reading is paused, that is while more of the request's body waits here than its reader takes. The next
request on the connection starts without the function.

**Keeping.** ``request.protocol.kept`` is for what a handler wants to find again with the connection's next request.

**Tunnels.** A handler that took the connection over with ``request.protocol.set_parser(…)`` is left alone: no deadline
applies, and a drain waits for it as for any request.
"""

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import ERROR, RequestHandler, RequestPayloadError, _ErrInfo

from zenzefi.infra.instruments import HTTP_REQUESTS
from zenzefi.server.deadlines import Deadlines, Verdict, Watch
from zenzefi.server.errors import HeadTooLate, MalformedRequest, RefusedRequest
from zenzefi.server.framer import RequestFramer, refused
from zenzefi.server.serving import SerialHandler
from zenzefi.web.direct import SentResponse
from zenzefi.web.middleware import SECURITY_HEADERS
from zenzefi.web.problem import error_response, status_response

if TYPE_CHECKING:
    from zenzefi.server.runner import HardenedServer

_REFUSED = ERROR._replace(version=HttpVersion11)
_NEVER_S = 10 * 86_400.0  # aiohttp's own keep-alive timer, which ours stands in for
# How much is read on that nobody wants: closing on unread bytes would reset the answer away, and what is on its way
# already is worth reading; more is not.
_UNWANTED_BYTES = 1024 * 1024

log = structlog.get_logger(__name__)


class HardenedProtocol(SerialHandler):
    """One connection."""

    __slots__ = (
        "_dropped",
        "_framer",
        "_lingering",
        "_link",
        "_orphan",
        "_server",
        "_unwanted",
        "_watch",
        "_writer",
        "kept",
        "on_disconnect",
    )

    def __init__(self, server: "HardenedServer", **options: Any) -> None:
        limits = server.limits
        super().__init__(
            server,
            max_line_size=limits.head_bytes,  # the framer's limits are the ones that count
            max_field_size=limits.fields_bytes,
            max_headers=limits.fields,
            auto_decompress=False,  # a body goes upstream as it came, under the Content-Length that it came with
            keepalive_timeout=_NEVER_S,
            lingering_time=0,  # it would read on however much comes; see _take_unwanted
            access_log=None,  # type: ignore[arg-type]  # aiohttp's way to say: none; the middleware writes ours
            **options,
        )
        self.on_disconnect: Callable[[], None] | None = None
        self.kept: object = None
        self._server = server
        self._framer = RequestFramer(self, cast("HttpRequestParser", self._parser), limits)
        self._parser = self._framer  # type: ignore[assignment]
        self._watch = Watch(self.now())
        self._link: asyncio.Transport | None = None  # aiohttp forgets its own when it closes, before all is sent
        self._writer: AbstractStreamWriter | None = None
        self._orphan: asyncio.Task[None] | None = None  # serves a request whose client has gone
        self._lingering: asyncio.Future[None] | None = None
        self._dropped = 0  # bytes that were not looked at since a refusal
        self._unwanted: StreamReader | None = None  # the body that is only read away

    def now(self) -> float:
        """The event loop's time, in seconds."""
        return self._loop.time()

    @property
    def queued_requests(self) -> int:
        """How many requests wait for the one that is being handled."""
        return len(self._messages)

    def note_dropped(self, size: int) -> None:
        """Count bytes that came behind a refusal."""
        self._dropped += size
        if self._dropped > _UNWANTED_BYTES:
            self._end_linger()

    def begin(self, message: RawRequestMessage, writer: AbstractStreamWriter) -> RawRequestMessage:
        """Note that a request's turn has come; returns its head as the handler shall see it."""
        self.on_disconnect = None
        self._writer = writer
        if message is ERROR:  # aiohttp's stand-in for what it could not read; it would make the refusal an HTTP/1.0 one
            return _REFUSED
        if self._server.draining and not self._messages and not message.should_close:
            return message._replace(should_close=True)
        return message

    def announce_close(self) -> None:
        """Have the response that is being made say ``Connection: close``, unless its head is out already."""
        request = self._current_request
        if request is not None and not self._messages:
            request._message = request._message._replace(should_close=True)  # noqa: SLF001  see the module docstring

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._link = cast("asyncio.Transport", transport)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End; tell whoever asked to be told."""
        self._link = None
        self._end_linger()
        if self._unwanted is not None:
            self._unwanted.set_exception(ConnectionResetError("the client left"))
        callback, self.on_disconnect = self.on_disconnect, None
        # After the request is over nobody is told: its handler no longer waits for anything.
        if callback is not None and self._request_in_progress:
            try:
                callback()
            except Exception:
                log.exception("on_disconnect_failed")
        self._orphan = self._task_handler
        super().connection_lost(exc)

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Cut the connection, and end the work for a client that has gone: aiohttp forgets it."""
        await super().shutdown(timeout)
        if self._orphan is not None:
            self._orphan.cancel()

    def sweep(self, now: float, deadlines: Deadlines) -> bool:
        """Close the connection if its client has been too slow; returns whether it was."""
        link, watch = self._link, self._watch
        if link is None or self._payload_parser is not None:
            return False
        unsent = link.get_write_buffer_size()
        if unsent:
            watch.touch(now)
            written = self._writer.output_size if self._writer is not None else 0
            if watch.is_write_stalled(now, flushed=written - unsent, deadlines=deadlines):
                return self._give_up("response_not_read")
            return False
        watch.forget_write()
        if link.is_closing():
            return False
        if self._waiter is None:
            watch.touch(now)
        body = self._framer.body
        if not body.is_eof():
            too_slow = watch.is_body_too_slow(
                now,
                body=self._request_count,
                received=body.total_bytes,
                is_reading=not (self._reading_paused or self._buffer_paused),
                deadlines=deadlines,
            )
            return self._give_up("body_too_slow") if too_slow else False
        return self._judge_waiting(now, deadlines) if self._waiter is not None else False

    def _judge_waiting(self, now: float, deadlines: Deadlines) -> bool:
        verdict = self._watch.judge_waiting(
            now, requests=self._request_count, head_since=self._framer.head_since, deadlines=deadlines
        )
        if verdict is Verdict.CLOSE:
            self.force_close()
        elif verdict is Verdict.REFUSE:
            self._framer.close()
            self._messages.append(refused(HeadTooLate()))
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)
        return verdict is not Verdict.KEEP

    def close_if_idle(self, now: float, *, linger_s: float) -> None:
        """For a drain: close the connection when no request has begun on it for `linger_s` seconds."""
        link = self._link
        if link is None or link.is_closing() or self._waiter is None or self._framer.head_since or self._messages:
            return
        if self._watch.idle_s(now, self._request_count) >= linger_s and not _has_unread_bytes(link):
            self.force_close()

    def _give_up(self, reason: str) -> bool:
        log.info("connection_given_up", reason=reason, client=_address(self))
        link = self._link
        self.force_close()
        if link is not None:
            link.abort()  # what is still unsent would keep a closing connection open for ever
        return True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The response for what no middleware caught: as aiohttp's, but a problem document that tells nothing."""
        del message  # it may repeat what the client sent
        if request.writer.output_size > 0:
            raise ConnectionError("the response is on its way already; the connection is closed instead")
        request_id = _new_request_id()
        if isinstance(exc, RequestPayloadError):
            return _closing(error_response(MalformedRequest(), request_id), request_id)
        if not isinstance(exc, ConnectionError):  # then the client is gone: nothing failed here
            log.error("request_failed", request_id=request_id, client=_address(self), exc_info=exc)
        return _closing(status_response(status, "Something went wrong on our side.", request_id), request_id)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the response; then take what is still on its way of a body that nobody read, within bounds."""
        body = request.content
        if isinstance(resp, SentResponse) and body.is_eof() and not self._upgraded:
            return resp, False
        finished = await super().finish_response(request, resp, start_time)
        if not body.is_eof() and not self._force_close:
            self.on_disconnect = None  # the request is over: its handler no longer waits for anything
            try:
                await self._take_unwanted(body)
            except RequestPayloadError:
                await self._linger()
        return finished

    async def _take_unwanted(self, body: StreamReader) -> None:
        most = body.total_bytes + _UNWANTED_BYTES
        self._unwanted = body
        with contextlib.suppress(TimeoutError, ConnectionError):  # it took too long, or left
            async with asyncio.timeout(self._server.deadlines.unwanted_s):
                while not body.is_eof() and body.total_bytes < most:
                    await body.readany()
        self._unwanted = None

    def _make_error_handler(self, err_info: _ErrInfo) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        # aiohttp's own would answer in plain text and repeat the line that it could not read.
        error = err_info.exc if isinstance(err_info.exc, RefusedRequest) else MalformedRequest()

        async def refuse(request: web.BaseRequest) -> web.StreamResponse:
            HTTP_REQUESTS.labels(None, None, error.status).inc()
            request_id = _new_request_id()
            log.info(
                "request_refused", request_id=request_id, code=error.code, status=error.status, client=_address(self)
            )
            response = _closing(error_response(error, request_id), request_id)
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                await response.write_eof()
                await self._linger()
            return response

        return refuse

    async def _linger(self) -> None:
        """Close our side and read on for a moment: closing on unread bytes would reset the refusal away."""
        link = self._link
        if link is None or link.is_closing():
            return
        self._lingering, self._dropped = self._loop.create_future(), 0
        link.write_eof()
        await asyncio.wait((self._lingering,), timeout=self._server.deadlines.linger_s)

    def _end_linger(self) -> None:
        if self._lingering is not None and not self._lingering.done():
            self._lingering.set_result(None)


class _AnonymousResponse(web.Response):
    """A response that does not tell what the server runs on, as none of ours does."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        del self.headers["Server"]


def _closing(response: web.Response, request_id: str) -> web.Response:
    # aiohttp runs no hooks for these, so what every response carries is put on here.
    response = _AnonymousResponse(body=response.body, status=response.status, headers=response.headers)
    response.headers["X-Request-ID"] = request_id
    for name, value in SECURITY_HEADERS:
        response.headers[name] = value
    response.force_close()
    return response


def _new_request_id() -> str:
    return os.urandom(16).hex()


def _address(protocol: RequestHandler) -> str | None:
    peer = protocol.peername
    return str(peer[0]) if isinstance(peer, tuple) else None


def _has_unread_bytes(link: asyncio.Transport) -> bool:
    """Whether a request waits in the kernel that the event loop has not read yet."""
    answer = fcntl.ioctl(link.get_extra_info("socket").fileno(), termios.FIONREAD, b"\0" * 4)
    (unread,) = struct.unpack("i", answer)
    return bool(unread)
