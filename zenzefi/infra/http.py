"""The HTTP client towards the upstream: its connections, TLS, timeouts and circuit breaker."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

from aiohttp import (
    ClientConnectionError,
    ClientError,
    ClientPayloadError,
    ClientRequest,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
    hdrs,
)
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpResponseParser
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.tracing import Trace
from yarl import URL

from zenzefi.infra.breaker import BreakerState, CircuitBreaker
from zenzefi.infra.instruments import UPSTREAM_BREAKER, UPSTREAM_CONNECTIONS
from zenzefi.settings import Settings

# A restart of the upstream refuses connections for a moment, so a single failure must not open the circuit; five come
# within milliseconds under any load that the breaker is there for.
BREAKER_FAILURES = 5
BREAKER_OPEN_S = 2.0
# Shorter than the 60–75 s that common servers keep idle connections for, so that it is we who close them.
POOL_KEEPALIVE_S = 50.0
DNS_TTL_S = 30
# Requests that may be under way at once: hung ones must not use up the process's file descriptors.
MAX_CONNECTIONS = 4096
# All that aiohttp would add to a request by itself.
AUTOMATIC_HEADERS = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)
NO_TIMEOUT = ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
# Reading pauses once twice this waits for a slow client: a read of the event loop (256 KiB) still fits without a pause
# per read. An exchange that is held up keeps several reads in memory: one that waits to be parsed, one here, and what
# the client's connection has not taken. About 1 MB was measured, and a token's streams are limited.
READ_BUFFER_BYTES = 128 * 1024
# Single fields of real servers (policies, large cookies) outgrow aiohttp's 8 KiB.
MAX_FIELD_BYTES = 64 * 1024
MAX_FIELDS = 256


class CircuitOpen(ClientError):
    """No connection was tried: the last ones failed."""

    def __init__(self, retry_after_s: float) -> None:
        """Take the seconds until one is tried again."""
        super().__init__("the circuit breaker is open")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTimeouts:
    """How long the upstream is waited for, in seconds."""

    connect_s: float
    head_s: float
    idle_s: float


class UpstreamProtocol(ResponseHandler):
    """One connection to the upstream; it knows whether it is new, and has a broken answer's reader hear of it."""

    is_new = True  # no request has gone out on it

    def expect_answer(self, *, has_body: bool) -> None:
        """Prepare for the answer of the next request, as aiohttp's set_response_params does at twice the cost."""
        self.is_new = False
        self._skip_payload = not has_body
        self._read_bufsize = READ_BUFFER_BYTES
        self._parser = HttpResponseParser(
            self,
            self._loop,
            READ_BUFFER_BYTES,
            payload_exception=ClientPayloadError,
            response_with_body=has_body,
            read_until_eof=True,
            auto_decompress=False,
            max_line_size=MAX_FIELD_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_FIELDS,
        )
        if self._tail:
            self._drain_tail()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on, where reading was paused; aiohttp asks for it after each piece that was taken of a body."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Fail whoever waits for an answer's head, and, where aiohttp forgets it, whoever reads its body."""
        cause = exc if exc_cause is None else exc_cause
        super().set_exception(exc, cause)
        body = self._payload
        if isinstance(exc, HttpProcessingError) and body is not None and not body.is_eof():
            body.set_exception(ClientPayloadError("the answer's framing is broken"), cause)


class UpstreamConnector(TCPConnector):
    """The pool of connections to the one upstream, behind a circuit breaker that counts failures to connect."""

    def __init__(
        self,
        url: URL,
        *,
        timeouts: UpstreamTimeouts,
        tls: ssl.SSLContext | bool = True,
        max_connections: int = MAX_CONNECTIONS,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        """Take where the upstream is; must be called in a running event loop."""
        # No limit of aiohttp's own: it would make requests wait silently. Requests past ours are refused, see has_room.
        super().__init__(limit=0, ssl=tls, keepalive_timeout=POOL_KEEPALIVE_S, ttl_dns_cache=DNS_TTL_S)
        self.url = url
        self.timeouts = timeouts
        self.breaker = breaker or CircuitBreaker(failure_threshold=BREAKER_FAILURES, open_s=BREAKER_OPEN_S)
        self.base_path = url.raw_path.rstrip("/").encode("ascii")
        self.authority = url.raw_authority.rpartition("@")[2].encode("ascii")
        self._max_connections = max_connections
        self._factory = cast("partial[ResponseHandler]", partial(UpstreamProtocol, loop=self._loop))
        # aiohttp asks for a request to find where to connect to; this one stands for all of ours.
        self._destination = ClientRequest(hdrs.METH_GET, url, loop=self._loop, skip_auto_headers=AUTOMATIC_HEADERS)
        self._key = self._destination.connection_key
        self._connecting = 0

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the connections live in."""
        return self._loop

    @property
    def has_room(self) -> bool:
        """Whether one more connection may be taken."""
        return len(self._acquired) + self._connecting < self._max_connections

    @property
    def in_use(self) -> int:
        """Connections that carry a request now, or are being made for one."""
        return len(self._acquired) + self._connecting

    def reuse(self) -> UpstreamProtocol | None:
        """Take a pooled connection; None when there is none."""
        pooled = self._conns.get(self._key)
        while pooled:
            protocol, pooled_at = pooled.popleft()
            transport = protocol.transport
            # What arrived on an idle connection answers nothing that we asked (often it is a 408 before the close).
            if (
                transport is not None
                and not transport.is_closing()
                and not protocol.should_close
                and time.monotonic() - pooled_at <= POOL_KEEPALIVE_S
            ):
                self._acquired.add(protocol)
                return cast("UpstreamProtocol", protocol)
            protocol.close()
        return None

    async def acquire(self) -> UpstreamProtocol:
        """Make a new connection. The pooled ones are closed: whoever needs a new one has found them dead, or none.

        Raises:
            CircuitOpen: the breaker is open.
            TimeoutError: the upstream does not take the connection in time.
            ClientError, OSError: it refuses it, its name does not resolve, or its certificate is not to be trusted.
        """
        while (protocol := self.reuse()) is not None:
            self.drop(protocol)
        self._connecting += 1
        try:
            made = cast("UpstreamProtocol", await self._create_connection(self._destination, [], NO_TIMEOUT))
        finally:
            self._connecting -= 1
        if self._closed:
            made.close()
            raise ClientConnectionError("the pool is closed")
        self._acquired.add(made)
        return made

    def give_back(self, protocol: UpstreamProtocol) -> None:
        """Put a connection into the pool whose answer was read to its end; else it is closed."""
        if self._cleanup_handle is None or self._closed or protocol.should_close:
            self._release(self._key, protocol)  # aiohttp's own, which also starts the timer of idle connections
        else:
            self._acquired.discard(protocol)
            self._conns[self._key].append((protocol, time.monotonic()))

    def drop(self, protocol: UpstreamProtocol) -> None:
        """Close a connection."""
        self._release(self._key, protocol, should_close=True)

    async def _create_connection(
        self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout
    ) -> ResponseHandler:
        if not self.breaker.allow():
            raise CircuitOpen(self.breaker.retry_after_s)
        try:
            async with asyncio.timeout(self.timeouts.connect_s):
                protocol = await super()._create_connection(req, traces, timeout)
        except (ClientError, OSError):  # TimeoutError is an OSError
            self.breaker.record_failure()
            raise
        self.breaker.record_success()
        return protocol


@asynccontextmanager
async def open_upstream(settings: Settings) -> AsyncIterator[ClientSession]:
    """Open the session for requests to the upstream; it adds no header and no cookie, and follows no proxy.

    Its connector is an UpstreamConnector, which the gateway uses directly. Nothing is connected yet.
    """
    connector = UpstreamConnector(
        URL(settings.upstream_url),
        timeouts=UpstreamTimeouts(
            connect_s=settings.upstream_connect_timeout_s,
            head_s=settings.upstream_head_timeout_s,
            idle_s=settings.upstream_idle_timeout_s,
        ),
        tls=_tls_context(settings.upstream_ca_file),
    )
    async with ClientSession(
        connector=connector,
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        skip_auto_headers=AUTOMATIC_HEADERS,
        timeout=ClientTimeout(total=None, sock_read=settings.upstream_idle_timeout_s),
    ) as session:
        yield session


def sample_upstream(session: ClientSession) -> None:
    """Set the gauges of the connections to the upstream."""
    connector = session.connector
    assert isinstance(connector, UpstreamConnector)
    UPSTREAM_CONNECTIONS.labels().set(connector.in_use)
    now = connector.breaker.state
    for state in BreakerState:
        UPSTREAM_BREAKER.labels(state.value).set(state is now)


def _tls_context(ca_file: str) -> ssl.SSLContext | bool:
    """TLS that verifies the peer: against the given authority alone, or the system's when there is none."""
    return ssl.create_default_context(cafile=ca_file) if ca_file else True
