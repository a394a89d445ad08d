"""Chunked bodies cost what their data costs, however they were cut; and nobody reads on for a refused one for long."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.support import HOST, Service, now_s, serving
from tests.support.examples import unhurried
from zenzefi.server.chunks import ChunkReader
from zenzefi.server.deadlines import Deadlines
from zenzefi.server.errors import MalformedRequest
from zenzefi.server.framing import HeadLimits

CHUNKED = HOST + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n"
TINY = b"1\r\nx\r\n"
END = b"0\r\n\r\n"


@pytest.fixture(name="service")
async def _service() -> AsyncIterator[Service]:
    async with serving(deadlines=Deadlines(linger_s=0.2, unwanted_s=0.5, sweep_s=0.05)) as service:
        yield service


async def test_data_full_of_empty_lines_arrives_in_few_pieces(service: Service) -> None:
    size = 256 * 1024
    async with service.connect() as client:
        body = b"%x\r\n" % size + b"\r\n\r\n" * (size // 4) + b"\r\n" + END
        await client.send(b"POST /pieces HTTP/1.1\r\n" + CHUNKED + body)
        answer = await client.answer()
    pieces, received = map(int, answer.body.split())
    assert received == size
    assert pieces < 200  # about one for each read from the connection, not one or two for each empty line


async def test_small_chunks_of_one_read_arrive_as_one_piece(service: Service) -> None:
    async with service.connect() as client:
        await client.send(b"POST /pieces HTTP/1.1\r\n" + CHUNKED + TINY * 2000 + END + GET)
        pieces, received = map(int, (await client.answer()).body.split())
        assert (await client.answer()).status == 200
    assert received == 2000
    assert pieces < 20


async def test_flood_of_tiny_chunks_is_refused(service: Service) -> None:
    async with service.connect() as client:
        client.writer.write(b"POST /echo HTTP/1.1\r\n" + CHUNKED + TINY * 40_000)
        answer = await client.answer()
        assert (answer.status, answer.problem()["code"]) == (400, "malformed_request")
        assert await client.is_closed()
    assert service.seen == []


@pytest.mark.parametrize("framing", [CHUNKED + b"8000000\r\n", HOST + b"Content-Length: 100000000\r\n\r\n"])
async def test_body_that_was_refused_unread_is_not_read_for_ever(service: Service, framing: bytes) -> None:
    async with service.connect() as client:
        await client.send(b"POST /ignore HTTP/1.1\r\n" + framing)
        assert (await client.answer()).status == 401
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 64 * 1024 * 1024:
                await client.send(b"a" * 65536)
                sent += 65536
        assert sent < 32 * 1024 * 1024, "a MiB was taken; the kernels hold the rest"


async def test_body_that_was_refused_unread_is_not_waited_for(service: Service) -> None:
    started = now_s()
    async with service.connect() as client:
        await client.send(b"POST /ignore HTTP/1.1\r\n" + CHUNKED + b"5\r\nab")
        assert (await client.answer()).status == 401
        assert await client.is_closed()
    assert 0.5 <= now_s() - started < 2.0


async def test_client_that_leaves_its_refused_body_unsent_is_forgotten_at_once() -> None:
    async with serving(deadlines=Deadlines(unwanted_s=90.0)) as service:
        async with service.connect() as client:
            await client.send(b"POST /ignore HTTP/1.1\r\n" + CHUNKED + b"5\r\nab")
            assert (await client.answer()).status == 401
        async with asyncio.timeout(30):
            assert await service.runner.drain(timeout_s=30) == 0


@unhurried
@given(data=st.data())
def test_body_is_read_the_same_however_its_bytes_come(data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.binary(min_size=1, max_size=30) | st.just(b"\r\n\r\n0\r\n\r\n"), max_size=8))
    extension = data.draw(st.sampled_from([b"", b";a", b";a=b", b';a="b;\\"c";d']))
    trailers = data.draw(st.sampled_from([b"", b"X-A: 1\r\n", b"X-A: 1\r\nX-B:\r\n"]))
    wire = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    stream = wire + b"0" + extension + b"\r\n" + trailers + b"\r\n"
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    reader, body, start = ChunkReader(HeadLimits()), b"", 0
    for cut in sorted(cuts):
        chunk, rest = reader.reframe(stream[start:cut])
        assert rest == b""
        body, start = body + _data_of(chunk), cut
    chunk, rest = reader.reframe(stream[start:] + GET)
    if reader.is_over and not chunk:
        assert rest == GET  # the last cut was the end
    else:
        assert chunk.endswith(END)
        assert rest == GET
    assert body + _data_of(chunk) == b"".join(pieces)
    assert reader.is_over


def test_client_that_writes_single_bytes_as_they_come_may_do_so_for_ever() -> None:
    reader = ChunkReader(HeadLimits())
    for _ in range(50_000):
        assert reader.reframe(TINY) == (TINY, b"")


def test_chunks_of_48_bytes_may_come_in_any_number() -> None:
    reader = ChunkReader(HeadLimits())
    for _ in range(200):
        reader.reframe((b"30\r\n" + b"x" * 48 + b"\r\n") * 1000)


def test_many_small_bodies_have_one_credit() -> None:
    reader = ChunkReader(HeadLimits())
    for _ in range(3):
        reader.begin()
        reader.reframe(TINY * 1000 + END)
    reader.begin()
    with pytest.raises(MalformedRequest):
        reader.reframe(TINY * 1000 + END)


def _data_of(chunk: bytes) -> bytes:
    if chunk in (b"", END):
        return b""
    line, _, rest = chunk.partition(b"\r\n")
    return rest[: int(line, 16)]
