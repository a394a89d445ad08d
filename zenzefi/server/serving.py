"""aiohttp's loop over the requests of a connection, without the task that it makes for each of them.

That task is there so that what a handler puts into context variables ends with its request. Ours take back what they
put there (zenzefi.web.middleware), and one task per connection saves a tenth of what a small request costs.
What aiohttp does for access logs, its own lingering and its keep-alive timer is left out, for HardenedProtocol has
switched all three off. tests/server walks through what is left.
"""

import asyncio
from typing import cast

import structlog
from aiohttp.http import StreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _PAYLOAD_ACCESS_ERROR, ERROR, RequestHandler, _ErrInfo

log = structlog.get_logger(__name__)


class SerialHandler(RequestHandler):
    """One connection, whose requests are handled one after the other in the connection's own task."""

    __slots__ = ()

    async def start(self) -> None:
        """Serve the connection until one side is done with it."""
        try:
            while not self._force_close:
                if not self._messages:
                    await self._next_message()
                message, payload = self._take_message()
                if not await self._serve(message, payload) or self._close:
                    break
                if self._messages:
                    # Thousands fit into one read, and none of them may ever have to wait: others get their turns, too.
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception:
            log.exception("connection_failed")
            self.force_close()
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _next_message(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _take_message(self) -> tuple[RawRequestMessage | _ErrInfo, StreamReader]:
        taken = self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return taken

    async def _serve(self, message: RawRequestMessage | _ErrInfo, payload: StreamReader) -> bool:
        """Handle one request; returns whether there may be another one."""
        manager, factory, handler = self._manager, self._request_factory, self._request_handler
        assert manager is not None
        assert factory is not None
        assert handler is not None
        manager.requests_count += 1
        if isinstance(message, _ErrInfo):
            handler = self._make_error_handler(message)
            message = ERROR
        task = cast("asyncio.Task[None]", self._task_handler or asyncio.current_task(self._loop))
        request = factory(message, payload, self, StreamWriter(self, self._loop), task)
        try:
            response, has_left = await self._handle_request(request, None, handler)
        except ConnectionError:
            return False
        finally:
            request._task = None  # type: ignore[assignment]  # noqa: SLF001  a cycle otherwise
        if has_left:
            return False
        self._keepalive = bool(response.keep_alive)
        if payload is not EMPTY_PAYLOAD:
            if not payload.is_eof() and not self._force_close:
                self.close()  # nobody has read all of it, and what is left would be taken for the next request
            payload.set_exception(_PAYLOAD_ACCESS_ERROR)
        return self._keepalive
