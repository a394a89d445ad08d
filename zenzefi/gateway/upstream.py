"""One exchange with the upstream: a request written to one connection, and the head and body of its answer."""

import math
from dataclasses import dataclass

from aiohttp import ClientError, ClientSession, ServerDisconnectedError, StreamReader
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.http_exceptions import HttpProcessingError

from zenzefi.errors import ZenzefiError
from zenzefi.gateway.errors import BadAnswer, UpstreamTimeout, UpstreamUnavailable, UpstreamUnreachable
from zenzefi.infra.http import CircuitOpen, UpstreamConnector

# Reading pauses once twice this waits for a slow client: a read of the event loop (256 KiB) still fits without a pause
# per read. An exchange that is held up keeps several reads in memory: one that waits to be parsed, one here, and what
# the client's connection has not taken. About 1 MB was measured, and a token's streams are limited.
READ_BUFFER_BYTES = 128 * 1024
# Single fields of real servers (policies, large cookies) outgrow aiohttp's 8 KiB.
MAX_FIELD_BYTES = 64 * 1024
MAX_FIELDS = 256
# A connection that is to be closed waits this long for a peer that does not take what was sent before.
LINGER_S = 10.0
# RFC 9110, section 9.2.2. TRACE never gets here.
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of the upstream's answer, and its body as it arrives."""

    message: RawResponseMessage
    body: StreamReader
    close_delimited: bool  # only the close of the connection marks the body's end (RFC 9112, section 6.3)


class Exchange:
    """A request to the upstream and its answer. Always to be ended with release() or close()."""

    __slots__ = ("_connection", "_connector", "_failure", "_loop", "_method", "_protocol", "_reused")

    def __init__(self, connector: UpstreamConnector, method: str) -> None:
        self._connector = connector
        self._method = method
        self._loop = connector.loop
        self._connection: Connection | None = None
        self._protocol: ResponseHandler | None = None
        self._failure: ZenzefiError | None = None
        self._reused = False

    @property
    def protocol(self) -> ResponseHandler:
        """The protocol of the connection that the request went out on."""
        assert self._protocol is not None
        return self._protocol

    @property
    def is_under_way(self) -> bool:
        """Whether the request's head went out, once at least."""
        return self._protocol is not None

    @property
    def failure(self) -> ZenzefiError | None:
        """Why the exchange was aborted."""
        return self._failure

    @property
    def may_repeat(self) -> bool:
        """Whether a request without a body may be sent once more after UpstreamUnreachable.

        It may when it is idempotent and went out on a pooled connection, which the upstream probably closed at that
        very moment (RFC 9110, section 9.2.2, and RFC 9112, section 9.3.1).
        """
        return self._reused and self._failure is None and self._method in IDEMPOTENT_METHODS

    async def send(self, head: bytes, *, fresh: bool = False) -> None:
        """Write the request's head, and what of its body `head` holds, on a connection: `fresh` asks for a new one.

        Raises:
            ZenzefiError: there is no connection to be had, or abort() was called meanwhile.
        """
        self.close()
        connector = self._connector
        if not connector.has_room:
            raise UpstreamUnavailable("Too many requests wait for the upstream.", retry_after_s=1)
        try:
            self._connection, is_new = await connector.acquire(fresh=fresh)
        except CircuitOpen as error:
            retry_after_s = max(1, math.ceil(error.retry_after_s))
            raise UpstreamUnavailable("The upstream cannot be reached.", retry_after_s=retry_after_s) from error
        except TimeoutError as error:
            raise UpstreamTimeout("The upstream did not take the connection in time.") from error
        except (ClientError, OSError) as error:
            raise UpstreamUnreachable("The upstream did not accept the connection.") from error
        if self._failure is not None:
            raise self._failure
        self._reused = not is_new
        protocol = self._protocol = self._connection.protocol
        assert protocol is not None
        protocol.set_response_params(
            skip_payload=self._method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=MAX_FIELD_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_FIELDS,
        )
        transport = protocol.transport
        if transport is not None:  # else it was lost since it left the pool; answer() says so
            transport.write(head)

    async def answer(self, *, interim: int | None = None) -> Answer:
        """Wait for the head of the final answer; interim ones are skipped, but for the status given as `interim`.

        Raises:
            UpstreamUnreachable: the connection ended before an answer came.
            BadAnswer: what came is no HTTP answer, or has a status that there is not.
            ZenzefiError: the reason given to abort().
        """
        try:
            while True:
                message, body = await self.protocol.read()
                if message.code < 100:  # RFC 9110, section 15: three digits of which the first is 1 to 5
                    raise BadAnswer(f"The upstream's answer has the status {message.code:03}.")
                if message.code >= 200 or message.code in (101, interim):
                    return Answer(message, body, close_delimited=self._is_close_delimited(message))
        except HttpProcessingError as error:
            raise self._failure or BadAnswer("The upstream's answer is not valid HTTP.") from error
        except (ClientError, OSError) as error:
            raise self._failure or UpstreamUnreachable(
                "The upstream closed the connection without an answer."
            ) from error

    def body_writer(self, *, content_length: int | None) -> AbstractStreamWriter:
        """A writer for the request's body: of the given length, or chunked."""
        writer = StreamWriter(self.protocol, self._loop)
        writer.length = content_length
        if content_length is None:
            writer.enable_chunking()
        return writer

    def is_whole(self, answer: Answer) -> bool:
        """Whether a body that has ended is all that the upstream meant to send.

        Where the close of the connection is the only end mark, a reset is not that mark; aiohttp takes it for one.
        """
        if self._failure is not None:
            return False
        error = self.protocol.exception() if answer.close_delimited else None
        return error is None or isinstance(error, ServerDisconnectedError)

    def abort(self, reason: ZenzefiError) -> None:
        """Drop the connection at once; whoever waits for the upstream gets the first reason given."""
        if self._failure is None:
            self._failure = reason
        transport = self._connection.transport if self._connection is not None else None
        if transport is not None:
            # Not the protocol's abort(): it forgets the body, and who waits for that would wait for ever.
            transport.abort()

    def release(self) -> None:
        """End the exchange: the connection goes back to the pool if the answer was read to its end, or is closed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()

    def _is_close_delimited(self, message: RawResponseMessage) -> bool:
        if message.chunked or "Content-Length" in message.headers:
            return False
        return self._method != "HEAD" and message.code not in (101, 204, 304)

    def close(self) -> None:
        """End the exchange without reusing the connection.

        What is on its way to the upstream still gets there if the upstream takes it within LINGER_S.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            return
        transport = connection.transport
        connection.close()
        if transport is not None and transport.get_write_buffer_size():
            self._loop.call_later(LINGER_S, transport.abort)


def connector_of(session: ClientSession) -> UpstreamConnector:
    """The connector behind the process's upstream session."""
    connector = session.connector
    assert isinstance(connector, UpstreamConnector)
    return connector
