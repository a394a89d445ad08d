"""WebSocket tunnels, with a real client and a real server at the ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from tests.gateway.upstreams import LONG_S, SILENCE_S, Gateway, RawUpstream, app_upstream, gateway, raw_upstream, reset
from tests.server.support import Client
from tests.support.patience import patient_clock
from zenzefi.gateway.models import Outcome, StreamEnd

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: g\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nX-Up: 1\r\n\r\n"


async def echo(request: web.Request) -> web.WebSocketResponse:
    connection = web.WebSocketResponse(protocols=["chat"], max_msg_size=0)
    await connection.prepare(request)
    async for message in connection:
        if message.type is WSMsgType.TEXT:
            if message.data == "close":
                await connection.close(code=4001, message=b"enough")
            else:
                await connection.send_str(message.data)
        else:
            await connection.send_bytes(message.data)
    return connection


async def switch(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Switch to a protocol of echoed bytes."""
    await upstream.read_head(reader)
    writer.write(SWITCHED)
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def count_rest(client: Client) -> int:
    """Read until the close; how many bytes came."""
    count = 0
    async with asyncio.timeout(60):
        while piece := await client.reader.read(1024 * 1024):
            count += len(piece)
    return count


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Gateway, aiohttp.ClientWebSocketResponse]]:
    async with (
        app_upstream(web.get("/ws", echo)) as url,
        gateway(url) as proxy,
        aiohttp.ClientSession() as client,
        client.ws_connect(f"{proxy.url}/ws", compress=15, protocols=["chat"], max_msg_size=0) as connection,
    ):
        yield proxy, connection


async def test_subprotocol_and_compression_are_settled_end_to_end() -> None:
    async with connected() as (proxy, connection):
        assert connection.protocol == "chat"
        assert connection.compress == 15
        assert connection._response.headers["X-Token-Expires-At"] == "2030-01-01T00:00:00Z"
        await connection.send_str("zip " * 10_000)
        assert await connection.receive_str() == "zip " * 10_000
        await connection.close()
        stream = await proxy.last()
        assert 0 < stream.bytes_in < 10_000  # it was compressed on the way, and is counted as it went by
        assert 0 < stream.bytes_out < 10_000
        assert stream.outcome is Outcome.SERVED


async def test_messages_ping_pong() -> None:
    async with connected() as (_, connection):
        for number in range(1000):
            await connection.send_str(f"message {number}")
            assert await connection.receive_str() == f"message {number}"


async def test_large_messages_come_through_whole() -> None:
    async with connected() as (_, connection):
        message = bytes(range(256)) * 65536
        await connection.send_bytes(message)
        assert await connection.receive_bytes() == message


async def test_fragments_come_through() -> None:
    async with raw_upstream(switch) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
        await client.send(UPGRADE)
        await client.reader.readuntil(b"\r\n\r\n")
        fragments = [b"\x01\x83\0\0\0\0abc", b"\x00\x82\0\0\0\0de", b"\x89\x80\0\0\0\0", b"\x80\x81\0\0\0\0f"]
        for fragment in fragments:
            await client.send(fragment)
            assert await client.reader.readexactly(len(fragment)) == fragment


async def test_the_close_handshake_passes_through_from_either_side() -> None:
    async with connected() as (proxy, connection):
        await connection.send_str("close")
        message = await connection.receive()
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 4001, "enough")
        await proxy.last()
        await proxy.until_in_use(0)
    async with connected() as (proxy, connection):
        assert await connection.close(code=4002)
        assert connection.close_code == 1000  # the server's own word
        await proxy.last()
        await proxy.until_in_use(0)


async def test_the_heads_of_both_sides_follow_the_rules() -> None:
    async with raw_upstream(switch) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
        await client.send(UPGRADE)
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\nX-Up: 1\r\n")
        assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in head
        assert b"X-Token-Expires-At" in head
        assert head.count(b"Connection:") == 1
        assert b"Transfer-Encoding" not in head
        assert b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" in upstream.heads[0]
        assert upstream.heads[0].endswith(b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert b"X-User-Id: user-8\r\n" in upstream.heads[0]


async def test_bytes_that_come_with_the_head_are_not_lost() -> None:
    async def eager(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(SWITCHED + b"early bird")
        writer.write(await reader.readexactly(5))
        await reader.read()

    async with raw_upstream(eager) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
        await client.send(UPGRADE + b"eager")
        await client.reader.readuntil(b"\r\n\r\n")
        assert await client.reader.readexactly(15) == b"early birdeager"


async def test_a_refused_upgrade_is_an_answer_like_any_other() -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=403, text="not you")

    async with app_upstream(web.get("/ws", refuse)) as url, gateway(url) as proxy, proxy.connect() as client:
        for _ in range(2):
            await client.send(UPGRADE)
            answer = await client.answer()
            assert (answer.status, answer.body) == (403, b"not you")
        await proxy.until_in_use(0)


async def test_a_switch_to_another_protocol_is_502() -> None:
    async def other(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(SWITCHED.replace(b"WebSocket", b"irc/6.9"))
        await reader.read()

    async with raw_upstream(other) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
        await client.send(UPGRADE)
        assert (await client.answer()).status == 502
        await upstream.saw_close()


async def test_other_upgrades_are_forwarded_without_the_wish() -> None:
    async def plain(request: web.Request) -> web.Response:
        assert "Upgrade" not in request.headers
        return web.Response(text="plain")

    async with app_upstream(web.get("/ws", plain)) as url, gateway(url) as proxy, proxy.connect() as client:
        await client.send(UPGRADE.replace(b"websocket", b"h2c"))
        assert (await client.answer()).body == b"plain"


@pytest.mark.parametrize("abruptly", [True, False])
async def test_a_client_that_goes_takes_the_upstreams_connection_with_it(*, abruptly: bool) -> None:
    async with raw_upstream(switch) as upstream, gateway(upstream.url) as proxy:
        async with proxy.connect() as client:
            await client.send(UPGRADE + b"x")
            await client.reader.readuntil(b"\r\n\r\nx")
            if abruptly:
                reset(client.writer)
        await upstream.saw_close()
        await proxy.last()
        await proxy.until_in_use(0)


@pytest.mark.parametrize("abruptly", [True, False])
async def test_an_upstream_that_goes_takes_the_clients_connection_with_it(*, abruptly: bool) -> None:
    async def leave(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(SWITCHED + b"last words")
        await reader.readexactly(1)
        if abruptly:
            reset(writer)

    async with raw_upstream(leave) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
        await client.send(UPGRADE)
        await client.reader.readuntil(b"last words")
        await client.send(b"x")
        assert await client.rest() == b""
        await proxy.until_in_use(0)


async def test_what_the_upstream_said_before_it_closed_arrives() -> None:
    size = 8 * 1024 * 1024

    async def say_and_leave(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(SWITCHED + bytes(size))
        await writer.drain()

    async with raw_upstream(say_and_leave) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
        await client.send(UPGRADE)
        await client.reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.2)
        assert await count_rest(client) == size


async def test_what_the_client_said_before_it_closed_arrives() -> None:
    size = 8 * 1024 * 1024
    received = 0

    async def listen(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await upstream.read_head(reader)
        writer.write(SWITCHED)
        while data := await reader.read(65536):
            received += len(data)
            await asyncio.sleep(0.005)  # so slowly that the gateway still holds the end when the client is gone

    async with raw_upstream(listen) as upstream, gateway(upstream.url) as proxy:
        async with proxy.connect() as client:
            await client.send(UPGRADE)
            await client.reader.readuntil(b"\r\n\r\n")
            await client.send(bytes(size))
        await upstream.saw_close()
        assert received == size
        assert (await proxy.last()).outcome is Outcome.SERVED


async def test_the_end_of_the_token_ends_the_tunnel_at_once() -> None:
    async with raw_upstream(switch) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
        await client.send(UPGRADE + b"x")
        await client.reader.readuntil(b"\r\n\r\nx")
        proxy.streams[0].end(StreamEnd.REVOKED)
        with patient_clock() as clock:
            ended_at = clock()
            assert await client.rest() == b""
            assert clock() - ended_at < 1
        await upstream.saw_close()
        assert (await proxy.last()).outcome is Outcome.ENDED


async def test_a_silent_tunnel_stays_open() -> None:
    async with (
        raw_upstream(switch) as upstream,
        gateway(upstream.url, head_s=SILENCE_S, idle_s=SILENCE_S) as proxy,
        proxy.connect() as client,
    ):
        await client.send(UPGRADE)
        await client.reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(SILENCE_S + 0.5)
        await client.send(b"still here")
        assert await client.reader.readexactly(10) == b"still here"


@pytest.mark.parametrize("slow", ["client", "upstream"])
async def test_a_side_that_does_not_read_holds_the_other_back(slow: str) -> None:
    """Neither side's bytes pile up in the gateway: they wait in the kernel, and then with the sender."""
    go_on = asyncio.Event()
    size = 64 * 1024 * 1024
    sent = 0

    async def push(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        for _ in range(size // 65536):
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    async def upstream_side(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(SWITCHED)
        if slow == "client":
            await push(writer)
        else:
            await go_on.wait()
            while await reader.read(1024 * 1024):
                pass

    async with raw_upstream(upstream_side) as upstream, gateway(upstream.url) as proxy, proxy.connect() as client:
        await client.send(UPGRADE)
        await client.reader.readuntil(b"\r\n\r\n")
        pushing = asyncio.create_task(push(client.writer)) if slow == "upstream" else None
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.3)
        stream = proxy.streams[0]
        passed = stream.bytes_out if slow == "client" else stream.bytes_in
        assert passed < 20 * 1024 * 1024  # what the kernel buffers on loopback, and no more
        if pushing is not None:
            go_on.set()
            await pushing
            client.writer.write_eof()
            await upstream.saw_close()
            assert stream.bytes_in == size
        else:
            assert await count_rest(client) == size
            assert stream.bytes_out == size


async def test_a_client_that_leaves_while_the_upstream_does_not_read_ends_the_tunnel() -> None:
    """Its leaving cannot be seen, for nothing is read from it; the upstream's not reading can."""

    async def deaf(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(SWITCHED)
        await asyncio.sleep(LONG_S)

    async with raw_upstream(deaf) as upstream, gateway(upstream.url, idle_s=SILENCE_S) as proxy:
        async with proxy.connect() as client:
            await client.send(UPGRADE)
            await client.reader.readuntil(b"\r\n\r\n")
            # Until nothing is taken any more: all that is between here and there is full.
            client.writer.write(bytes(64 * 1024 * 1024))
            left, still = 0, 0
            while still < 20:
                before, left = left, client.writer.transport.get_write_buffer_size()
                still = still + 1 if left == before else 0
                await asyncio.sleep(0.002)
            assert left > 0
            reset(client.writer)
        assert (await proxy.last()).outcome is Outcome.UPSTREAM_FAILED
        assert proxy.connector.in_use == 0


async def test_a_client_that_does_not_read_is_given_up() -> None:
    async def push(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(SWITCHED)
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    async with raw_upstream(push) as upstream, gateway(upstream.url, idle_s=0.3) as proxy, proxy.connect() as client:
        await client.send(UPGRADE)
        assert (await proxy.last()).outcome is Outcome.ABORTED
        await upstream.saw_close()
        assert proxy.connector.in_use == 0
