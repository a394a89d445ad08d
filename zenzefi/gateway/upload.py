"""A request's body on its way up: read from the client as it comes, and written on as the upstream takes it."""

from aiohttp import ClientError, StreamReader, web
from aiohttp.abc import AbstractStreamWriter

from zenzefi.gateway.errors import BadUpload, ClientGone
from zenzefi.gateway.streams import OpenStream
from zenzefi.gateway.watchdog import Watchdog


class Upload:
    """One request's body, and how far it is."""

    __slots__ = ("_request", "_stream", "_watchdog", "awaits_client", "is_received", "is_sent")

    def __init__(self, request: web.Request, *, stream: OpenStream, watchdog: Watchdog) -> None:
        """Take the request, the account that counts its bytes, and the watchdog that hears of each chunk."""
        self._request = request
        self._stream = stream
        self._watchdog = watchdog
        self.awaits_client = False  # it waits for the client's next chunk now
        self.is_received = False  # the client is needed no longer
        self.is_sent = False  # the upstream's connection has taken all of it

    def take_whole(self) -> bytes:
        """The body that has arrived as a whole.

        Raises:
            BadUpload: it could not be read.
        """
        try:
            body = self._request.content.read_nowait()
        except Exception as error:  # the server's protocol may put any error on the body
            raise BadUpload("The request body could not be read.") from error
        self._stream.bytes_in += len(body)
        self.is_received = True
        return body

    async def invite(self) -> None:
        """Ask the client for the body that it holds back (RFC 9110, section 10.1.1).

        Raises:
            ClientGone: there is nobody to ask.
        """
        writer = self._request.writer
        try:
            await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        except (ClientError, OSError) as error:
            raise ClientGone from error
        writer.output_size = 0  # aiohttp takes a non-zero size for the start of the final response

    async def send(self, writer: AbstractStreamWriter) -> None:
        """Pass the body on to its end, or until the upstream hangs up: who waits for its answer sees that.

        Raises:
            ClientGone: the client left before its end.
            BadUpload: its framing is broken.
        """
        content, watchdog = self._request.content, self._watchdog
        try:
            while not self.is_received:
                chunk = await self._read(content)
                watchdog.note_life()
                self._stream.bytes_in += len(chunk)
                if chunk:
                    await writer.write(chunk)
                    watchdog.note_life()
            await writer.write_eof()
        except (ClientError, OSError):
            return
        self.is_sent = True

    async def _read(self, content: StreamReader) -> bytes:
        self.awaits_client = True
        try:
            chunk = await content.readany()
        except Exception as error:  # the server's protocol may put any error on the body
            transport = self._request.transport
            if transport is None or transport.is_closing():
                raise ClientGone from error
            raise BadUpload("The request body is malformed.") from error
        self.awaits_client = False
        # Known before the last chunk goes out: should the client leave meanwhile, the request is whole nevertheless.
        self.is_received = content.at_eof()
        return chunk
