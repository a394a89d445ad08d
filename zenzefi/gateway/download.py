"""An answer's body on its way down: read from the upstream as it comes, and written on as the client takes it."""

from aiohttp import ClientError, StreamReader, web
from aiohttp.abc import AbstractStreamWriter

from zenzefi.gateway.streams import OpenStream
from zenzefi.gateway.watchdog import Watchdog


class Download:
    """One answer's body, and whether the client takes it."""

    __slots__ = ("_request", "_stream", "_unsent", "_watchdog", "awaits_client")

    def __init__(self, request: web.Request, *, stream: OpenStream, watchdog: Watchdog) -> None:
        """Take the request, the account that counts the bytes, and the watchdog that hears of each chunk."""
        self._request = request
        self._stream = stream
        self._watchdog = watchdog
        self._unsent = -1  # bytes, when it was last asked
        self.awaits_client = False  # it waits for the client to take what was written

    async def send(self, body: StreamReader, writer: AbstractStreamWriter) -> bool:
        """Pass the body on; False when it broke off.

        Raises:
            ClientError, OSError: the client is gone.
        """
        stream, watchdog = self._stream, self._watchdog
        while True:
            try:
                chunk = await body.readany()
            except (ClientError, OSError):
                return False
            if not chunk:
                return True
            watchdog.note_life()
            stream.bytes_out += len(chunk)
            self.awaits_client = True
            await writer.write(chunk)
            self.awaits_client = False
            watchdog.note_life()

    def was_taken_from(self) -> bool:
        """Whether the client took anything since this was last asked: a slow reader is not a dead one."""
        transport = self._request.transport
        before, self._unsent = self._unsent, transport.get_write_buffer_size() if transport is not None else 0
        return before != self._unsent
