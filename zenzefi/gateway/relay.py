"""A request on its way: up to the upstream, the answer's way down, and all that can end either early."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import ClientError, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11

from zenzefi.errors import ZenzefiError
from zenzefi.gateway.download import Download
from zenzefi.gateway.errors import (
    AccessEnded,
    BadAnswer,
    BadUpload,
    ClientGone,
    UploadTooSlow,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from zenzefi.gateway.headers import Provenance, answer_headers, framing_lines, request_head, upgrade_of
from zenzefi.gateway.models import Outcome
from zenzefi.gateway.paths import CanonicalPath
from zenzefi.gateway.response import ProxiedResponse, WholeAnswer
from zenzefi.gateway.streams import OpenStream
from zenzefi.gateway.tunnel import tunnel
from zenzefi.gateway.upload import Upload
from zenzefi.gateway.upstream import Answer, Exchange
from zenzefi.gateway.watchdog import Watchdog
from zenzefi.infra.http import UpstreamConnector
from zenzefi.infra.instruments import UPSTREAM_DURATION, UPSTREAM_REQUESTS

# Gives our own fields for the answer's head; it may raise, and then the client gets that error instead of the answer.
OnAnswer = Callable[[], Awaitable[Iterable[tuple[str, str]]]]

# An upstream that knows nothing of "Expect: 100-continue" never asks for the body: it gets it after this long, as RFC
# 9110, section 10.1.1, advises clients.
CONTINUE_WAIT_S = 1.0

_UPSTREAM_DURATION = UPSTREAM_DURATION.labels()
# By the hundreds of the status, which has three digits.
_ANSWERED = tuple(UPSTREAM_REQUESTS.labels(f"{hundreds}xx") for hundreds in range(10))


def watch_disconnect(request: web.Request, callback: Callable[[], None] | None) -> None:
    """Have the connection's protocol call back as soon as the client is gone; None ends it."""
    protocol = request.protocol
    if hasattr(protocol, "on_disconnect"):
        protocol.on_disconnect = callback


class Relay:
    """A request on its way: holds what both directions share."""

    def __init__(self, request: web.Request, *, connector: UpstreamConnector, stream: OpenStream) -> None:
        """Take the request, the upstream's pool and the caller's account of the stream."""
        self._request = request
        self._connector = connector
        self._timeouts = connector.timeouts
        self._stream = stream
        self._loop = connector.loop
        self._exchange = Exchange(connector, request.method)
        self._watchdog = Watchdog(self._loop, self._on_silence)
        self._response: ProxiedResponse | WholeAnswer | None = None
        self._upload: Upload | None = None  # of a body
        self._uploading: asyncio.Task[None] | None = None
        self._is_abandoned = False  # the client has gone, and the exchange goes on without it
        self._download: Download | None = None  # of an answer that is not there as a whole

    async def run(self, path: CanonicalPath, provenance: Provenance, on_answer: OnAnswer) -> web.StreamResponse:
        """Forward the request and give the response, which is sent by then."""
        upgrade = self._upgrade()
        started = self._loop.time()
        try:
            answer = await self._ask(path, provenance, upgrade)
        except ZenzefiError as error:
            UPSTREAM_REQUESTS.labels(error.code).inc()
            raise
        message = answer.message
        _ANSWERED[message.code // 100].inc()
        upstream_s = self._stream.upstream_s = self._loop.time() - started
        _UPSTREAM_DURATION.observe(upstream_s)
        try:
            fields = answer_headers(message.reason, message.headers)
        except ValueError as error:
            raise BadAnswer(str(error)) from error
        is_tunnel = message.code == 101
        if is_tunnel and (not upgrade or upgrade_of(message.headers) != upgrade):
            raise BadAnswer("The upstream switched to a protocol that was not asked for.")
        fields += await on_answer()
        if self._is_abandoned:
            raise ClientGone
        if self._exchange.failure is not None:
            raise self._exchange.failure
        if is_tunnel:
            return await self._tunnel(fields, protocol_name=upgrade)
        self._stream.outcome = Outcome.UPSTREAM_ERROR if message.code >= 500 else Outcome.SERVED
        try:
            return await self._send_answer(answer, fields)
        except (ClientError, OSError):
            self.fail(ClientGone())
            assert self._response is not None
            return self._response

    def fail(self, reason: ZenzefiError) -> None:
        """End the request in both directions: the first reason is the one that counts."""
        if self._exchange.failure is None and self._response is not None:
            self.settle(reason)
        self._exchange.abort(reason)
        if self._response is not None:
            self._response.abort()

    def end(self, reason: str) -> None:
        """End the request because its token may be used no longer."""
        self.fail(AccessEnded(reason))

    def client_gone(self) -> None:
        """Nobody waits for the answer any more: end the request, unless its answer is what starts the token's clock.

        The upstream serves a request that it has, whoever waits. Were it dropped here, a token that is not activated
        would be used for nothing and then refunded. So the exchange goes on to its answer's head, which the head
        timeout bounds, and nothing of it is sent.
        """
        upload = self._upload
        is_on_its_way = self._exchange.is_under_way and (upload is None or upload.is_received)
        if is_on_its_way and self._response is None and self._stream.grant.activated_at is None:
            self._is_abandoned = True
        else:
            self.fail(ClientGone())

    def settle(self, error: ZenzefiError) -> None:
        """Note what came of the request."""
        if self._stream.end_reason is not None:
            return  # whoever ended the stream has said so
        if self._is_abandoned or isinstance(error, ClientGone | BadUpload | UploadTooSlow):
            self._stream.outcome = Outcome.ABORTED
        elif error.status in (502, 503, 504):
            self._stream.outcome = Outcome.UPSTREAM_FAILED

    async def close(self) -> None:
        """Let go of everything; what is unfinished is broken off."""
        self._watchdog.stop()
        self._exchange.close()
        if self._uploading is not None and not self._uploading.done():
            # The server reads what is left of the body next, and two readers at a time are an error.
            self._uploading.cancel()
            await asyncio.wait([self._uploading])

    @property
    def _is_request_whole(self) -> bool:
        """Whether nothing of the request is left to be sent."""
        return self._upload is None or self._upload.is_sent

    def _upgrade(self) -> str:
        """The protocol to switch to: WebSocket or none, which is all that the server's parser lets through."""
        request = self._request
        if not request._message.upgrade:  # noqa: SLF001  nearly none asks for one
            return ""
        if request.method != "GET" or request.version != HttpVersion11 or request.body_exists:
            return ""
        upgrade = upgrade_of(request.headers)
        return upgrade if upgrade == "websocket" else ""

    async def _ask(self, path: CanonicalPath, provenance: Provenance, upgrade: str) -> Answer:
        request = self._request
        message = request._message  # noqa: SLF001  the request's own properties are several times as slow
        chunked = hdrs.TRANSFER_ENCODING in message.headers
        length = None if chunked or hdrs.CONTENT_LENGTH not in message.headers else request.content_length
        body_exists = request.body_exists
        expects = (
            body_exists
            and not request.content.is_eof()
            and request.version >= HttpVersion11
            and request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
        )
        head = request_head(
            message.method,
            self._connector.base_path + path.target,
            authority=self._connector.authority,
            headers=message.raw_headers,
            provenance=provenance,
            framing=framing_lines(content_length=length, chunked=chunked, expect_continue=expects, upgrade=upgrade),
        )
        if not body_exists:
            return await self._ask_without_body(head)
        self._upload = Upload(request, stream=self._stream, watchdog=self._watchdog)
        if request.content.is_eof():
            return await self._ask_with_whole_body(head, self._upload, chunked=chunked)
        return await self._ask_while_uploading(head, self._upload, length=length, expects=expects)

    async def _ask_without_body(self, head: bytes) -> Answer:
        exchange = self._exchange
        await exchange.send(head)
        self._watchdog.start(self._timeouts.head_s)
        try:
            return await exchange.answer()
        except UpstreamUnreachable:
            if not exchange.may_repeat:
                raise
        await exchange.send(head, fresh=True)
        self._watchdog.start(self._timeouts.head_s)
        return await exchange.answer()

    async def _ask_with_whole_body(self, head: bytes, upload: Upload, *, chunked: bool) -> Answer:
        body = upload.take_whole()
        if chunked:
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        await self._exchange.send(head + body)
        upload.is_sent = True
        self._watchdog.start(self._timeouts.head_s)
        return await self._exchange.answer()

    async def _ask_while_uploading(self, head: bytes, upload: Upload, *, length: int | None, expects: bool) -> Answer:
        exchange = self._exchange
        await exchange.send(head)
        if expects:
            answer = await self._await_invitation()
            if answer is not None:
                return answer
            await upload.invite()
        self._watchdog.start(self._timeouts.idle_s)
        self._uploading = self._loop.create_task(self._send_body(upload, exchange.body_writer(content_length=length)))
        return await exchange.answer()

    async def _await_invitation(self) -> Answer | None:
        """Wait until the upstream wants the body; or give the answer that came instead."""
        try:
            async with asyncio.timeout(CONTINUE_WAIT_S):
                answer = await self._exchange.answer(interim=100)
        except TimeoutError:
            return None
        return None if answer.message.code == 100 else answer

    async def _send_body(self, upload: Upload, writer: AbstractStreamWriter) -> None:
        """Send the request's body; runs as a task, so that an early answer is heard meanwhile."""
        try:
            await upload.send(writer)
        except ZenzefiError as error:
            self.fail(error)
        else:
            if upload.is_sent and self._response is None:
                self._watchdog.start(self._timeouts.head_s)

    async def _tunnel(self, fields: Iterable[tuple[str, str]], *, protocol_name: str) -> web.StreamResponse:
        self._watchdog.stop()
        watch_disconnect(self._request, None)  # a close is how tunnels end; the tunnel hears of it by itself
        try:
            return await tunnel(
                self._request,
                self._exchange,
                fields=fields,
                protocol_name=protocol_name,
                stream=self._stream,
                stall_s=self._timeouts.idle_s,
            )
        except (ClientError, OSError) as error:
            raise ClientGone from error

    async def _send_answer(self, answer: Answer, fields: list[tuple[str, str]]) -> web.StreamResponse:
        request, message, body = self._request, answer.message, answer.body
        data: bytes | None = None
        if body.is_eof() and body.exception() is None and self._exchange.is_whole(answer):
            # Nearly every answer: it is all there, so that the connection is free before the client has read it.
            data = body.read_nowait()
            self._watchdog.stop()
            self._release()
            self._stream.bytes_out += len(data)
            if self._is_request_whole and WholeAnswer.suits(request, message, data):
                whole = self._response = WholeAnswer(request, message, data)
                await whole.send(fields)
                return whole
        response = self._response = ProxiedResponse(status=message.code, reason=message.reason, headers=fields)
        if not self._is_request_whole:
            response.force_close()  # answered early: the rest of the body is not wanted (RFC 9112, section 9.6)
        if data is None:
            await self._stream_answer(answer, response)
        else:
            await response.prepare(request)
            await response.write_eof(data)
        return response

    async def _stream_answer(self, answer: Answer, response: ProxiedResponse) -> None:
        body = answer.body
        self._watchdog.start(self._timeouts.idle_s)
        writer = await response.prepare(self._request)
        assert writer is not None
        if body.total_bytes == 0:
            writer.send_headers()  # the body may be long in coming, but the client is to know that it will
        download = self._download = Download(self._request, stream=self._stream, watchdog=self._watchdog)
        if await download.send(body, writer) and self._exchange.is_whole(answer):
            self._watchdog.stop()
            self._release()
            await response.write_eof()
        else:
            self.fail(UpstreamUnreachable("The upstream broke its answer off."))

    def _release(self) -> None:
        """Give the connection back, unless the upstream still waits for the rest of the request on it."""
        if self._is_request_whole:
            self._exchange.release()
        else:
            self._exchange.close()

    def _on_silence(self) -> None:
        """Nothing moved for the time allowed: find out who is to blame."""
        download = self._download
        if download is not None and download.awaits_client:
            if download.was_taken_from():
                self._watchdog.start(self._timeouts.idle_s)
            else:
                self.fail(ClientGone())
        elif self._upload is not None and self._upload.awaits_client and self._response is None:
            self.fail(UploadTooSlow("Nothing of the request body arrived for too long."))
        else:
            self.fail(UpstreamTimeout("The upstream did not answer in time."))
