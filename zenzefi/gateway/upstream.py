"""One exchange with the upstream: a request written to one connection, and the head and body of its answer."""

import math
from typing import NamedTuple

from aiohttp import ClientError, ClientSession, ServerDisconnectedError, StreamReader, hdrs
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.http_exceptions import HttpProcessingError

from zenzefi.errors import ZenzefiError
from zenzefi.gateway.errors import BadAnswer, UpstreamTimeout, UpstreamUnavailable, UpstreamUnreachable
from zenzefi.infra.http import CircuitOpen, UpstreamConnector, UpstreamProtocol

# A connection that is to be closed waits this long for a peer that does not take what was sent before.
LINGER_S = 10.0
# RFC 9110, section 9.2.2. TRACE never gets here.
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


class Answer(NamedTuple):
    """The head of the upstream's answer, and its body as it arrives."""

    message: RawResponseMessage
    body: StreamReader


class Exchange:
    """A request to the upstream and its answer. Always to be ended with release() or close()."""

    __slots__ = ("_connector", "_failure", "_held", "_loop", "_method", "_protocol", "_reused")

    def __init__(self, connector: UpstreamConnector, method: str) -> None:
        self._connector = connector
        self._method = method
        self._loop = connector.loop
        self._protocol: UpstreamProtocol | None = None  # of the connection that the request went out on
        self._held: UpstreamProtocol | None = None  # the same, until it is given back or closed
        self._failure: ZenzefiError | None = None
        self._reused = False

    @property
    def protocol(self) -> UpstreamProtocol:
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
        if self._held is not None:
            self.close()
        protocol = None if fresh else self._connector.reuse()
        self._reused = protocol is not None
        if protocol is None:
            protocol = await self._connect()
        self._held = protocol
        if self._failure is not None:
            raise self._failure
        self._protocol = protocol
        protocol.expect_answer(has_body=self._method != "HEAD")
        transport = protocol.transport
        if transport is not None:  # else it was lost since it left the pool; answer() says so
            transport.write(head)

    async def _connect(self) -> UpstreamProtocol:
        # Whoever reuses a connection adds none, so that it is enough to look here.
        if not self._connector.has_room:
            raise UpstreamUnavailable("Too many requests wait for the upstream.", retry_after_s=1)
        try:
            return await self._connector.acquire()
        except CircuitOpen as error:
            retry_after_s = max(1, math.ceil(error.retry_after_s))
            raise UpstreamUnavailable("The upstream cannot be reached.", retry_after_s=retry_after_s) from error
        except TimeoutError as error:
            raise UpstreamTimeout("The upstream did not take the connection in time.") from error
        except (ClientError, OSError) as error:
            raise UpstreamUnreachable("The upstream did not accept the connection.") from error

    async def answer(self, *, interim: int | None = None) -> Answer:
        """Wait for the head of the final answer; interim ones are skipped, but for the status given as `interim`.

        Raises:
            UpstreamUnreachable: the connection ended before an answer came.
            BadAnswer: what came is no HTTP answer, or has a status that there is not.
            ZenzefiError: the reason given to abort().
        """
        try:
            while True:
                received = await self.protocol.read()
                message = received[0]
                if message.code < 100:  # RFC 9110, section 15: three digits of which the first is 1 to 5
                    raise BadAnswer(f"The upstream's answer has the status {message.code:03}.")
                if message.code >= 200 or message.code in (101, interim):
                    return tuple.__new__(Answer, received)  # a NamedTuple's own constructor is Python's
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
        message = answer.message
        if message.chunked or hdrs.CONTENT_LENGTH in message.headers or not self._has_body(message):
            return True
        error = self.protocol.exception()
        return error is None or isinstance(error, ServerDisconnectedError)

    def abort(self, reason: ZenzefiError) -> None:
        """Drop the connection at once; whoever waits for the upstream gets the first reason given."""
        if self._failure is None:
            self._failure = reason
        transport = self._held.transport if self._held is not None else None
        if transport is not None:
            # Not the protocol's abort(): it forgets the body, and who waits for that would wait for ever.
            transport.abort()

    def release(self) -> None:
        """End the exchange: the connection goes back to the pool if the answer was read to its end, or is closed."""
        held, self._held = self._held, None
        if held is not None:
            self._connector.give_back(held)

    def _has_body(self, message: RawResponseMessage) -> bool:
        return self._method != "HEAD" and message.code not in (101, 204, 304)

    def close(self) -> None:
        """End the exchange without reusing the connection.

        What is on its way to the upstream still gets there if the upstream takes it within LINGER_S.
        """
        held, self._held = self._held, None
        if held is None:
            return
        transport = held.transport
        self._connector.drop(held)
        if transport is not None and transport.get_write_buffer_size():
            self._loop.call_later(LINGER_S, transport.abort)


def connector_of(session: ClientSession) -> UpstreamConnector:
    """The connector behind the process's upstream session."""
    connector = session.connector
    assert isinstance(connector, UpstreamConnector)
    return connector
