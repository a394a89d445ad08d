"""Tunnels: once both sides have switched protocols, bytes pass both ways untouched."""

import asyncio
import socket
from collections.abc import Iterable
from typing import Any, cast

from aiohttp import ClientError, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import StreamWriter

from zenzefi.gateway.models import Outcome
from zenzefi.gateway.response import ProxiedResponse
from zenzefi.gateway.streams import OpenStream
from zenzefi.gateway.upstream import LINGER_S, Exchange

# A tunnel may be silent for hours, so that only the kernel can tell that a peer is gone: within 60 + 4 · 15 s.
KEEPALIVE_IDLE_S = 60
KEEPALIVE_INTERVAL_S = 15
KEEPALIVE_PROBES = 4


async def tunnel(
    request: web.Request,
    exchange: Exchange,
    *,
    fields: Iterable[tuple[str, str]],
    protocol_name: str,
    stream: OpenStream,
    stall_s: float,
) -> web.StreamResponse:
    """Tell the client that the upstream switched protocols, and pass bytes until either side closes.

    No idle timeout applies; but a side that has bytes waiting for it and takes none of them for `stall_s` seconds is
    given up, because the other side's close cannot be seen while it is held back. Aborting the exchange ends the tunnel
    at once; a close of either side ends it once what was sent before has been delivered to the other, if it takes it
    within LINGER_S. The caller closes the exchange.
    """
    switched = [*fields, ("Connection", "Upgrade"), ("Upgrade", protocol_name)]
    response = ProxiedResponse(status=101, reason="Switching Protocols", headers=switched)
    response.force_close()
    writer = await response.prepare(request)
    assert writer is not None
    writer.send_headers()
    client, upstream = request.protocol, exchange.protocol
    closed = asyncio.Event()
    upward = Pipe(source=client, sink=upstream, stream=stream, counter="bytes_in", closed=closed)
    downward = Pipe(source=upstream, sink=client, stream=stream, counter="bytes_out", closed=closed)
    flows = [
        asyncio.ensure_future(pipe.keep_flowing(stall_s=stall_s, if_stalled=outcome))
        for pipe, outcome in ((upward, Outcome.UPSTREAM_FAILED), (downward, Outcome.ABORTED))
    ]
    client_transport = client.transport
    try:
        _keep_alive(client_transport)
        _keep_alive(upstream.transport)
        # Both protocols hand what they receive to a parser of frames; a pipe stands in for it.
        client.set_parser(cast(Any, upward))
        client.keep_alive(False)  # noqa: FBT003
        upstream.set_parser(downward, None)
        if client.transport is not None and upstream.transport is not None:
            await closed.wait()
    finally:
        for flow in flows:
            flow.cancel()
        await asyncio.wait(flows)
        _close(client_transport, at_once=exchange.failure is not None)
    return response


class Pipe:
    """One direction of a tunnel: writes what one protocol receives to the other, and holds the source for the sink."""

    __slots__ = ("_closed", "_counter", "_full", "_sink", "_source", "_stream")

    def __init__(
        self, *, source: BaseProtocol, sink: BaseProtocol, stream: OpenStream, counter: str, closed: asyncio.Event
    ) -> None:
        """Take both ends, the stream's attribute that counts the bytes, and the event that says that an end closed."""
        self._source = source
        self._sink = sink
        self._stream = stream
        self._counter = counter
        self._closed = closed
        self._full = asyncio.Event()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Pass data on; called by the source's protocol. Never ends the parsing and leaves nothing over."""
        transport = self._sink.transport
        if transport is None or transport.is_closing():
            self._closed.set()
            return False, b""
        setattr(self._stream, self._counter, getattr(self._stream, self._counter) + len(data))
        transport.write(data)
        if self._sink.writing_paused and not self._full.is_set():
            self._source.pause_reading()
            self._full.set()
        return False, b""

    def feed_eof(self) -> None:
        """Note that the source closed; called by its protocol."""
        self._closed.set()

    async def keep_flowing(self, *, stall_s: float, if_stalled: Outcome) -> None:
        """Let the source send again each time when the sink has taken in what it had; give a dead sink up."""
        while True:
            await self._full.wait()
            try:
                is_taken = await self._drain(stall_s)
            except (ClientError, OSError):
                self._closed.set()
                return
            if not is_taken:
                self._give_up(if_stalled)
                return
            self._full.clear()
            self._source.resume_reading()

    async def _drain(self, stall_s: float) -> bool:
        """Wait until the sink has room; False when it took nothing in for `stall_s` seconds."""
        writer = StreamWriter(self._sink, asyncio.get_running_loop())
        unsent = self._unsent()
        while True:
            try:
                async with asyncio.timeout(stall_s) as limit:
                    await writer.drain()
            except TimeoutError:
                before, unsent = unsent, self._unsent()
                if not limit.expired():
                    raise  # the connection's own: ETIMEDOUT
                if unsent == before:
                    return False
            else:
                return True

    def _unsent(self) -> int:
        transport = self._sink.transport
        return transport.get_write_buffer_size() if transport is not None else 0

    def _give_up(self, outcome: Outcome) -> None:
        if self._stream.end_reason is None:
            self._stream.outcome = outcome
        transport = self._sink.transport
        if transport is not None:
            transport.abort()
        self._closed.set()


def _keep_alive(transport: asyncio.BaseTransport | None) -> None:
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def _close(transport: asyncio.Transport | None, *, at_once: bool) -> None:
    if transport is None:
        return
    if at_once:
        transport.abort()
        return
    transport.close()
    asyncio.get_running_loop().call_later(LINGER_S, transport.abort)
