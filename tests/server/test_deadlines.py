"""Slow clients are given up and slow answers are not. The deadlines here are a fiftieth of the real ones."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from tests.server.support import HOST, Client, Service, now_s, serving
from zenzefi.server.deadlines import Deadlines, Verdict, Watch

SCALED = Deadlines(
    head_s=0.3,
    body_grace_s=0.3,
    body_bytes_per_s=5000.0,
    body_credit_s=0.6,
    idle_s=0.8,
    write_stall_s=0.8,
    linger_s=0.1,
    sweep_s=0.03,
)
PROMPT_S = 2.0  # with room for a busy machine


@pytest.fixture(name="service")
async def _service() -> AsyncIterator[Service]:
    async with serving(deadlines=SCALED) as service:
        yield service


async def _drip(client: Client, data: bytes, pause_s: float) -> None:
    for position in range(len(data)):
        if client.writer.is_closing():
            return
        try:
            await client.send(data[position : position + 1])
        except ConnectionError:
            return
        await asyncio.sleep(pause_s)


async def test_silent_connection_is_closed(service: Service) -> None:
    started = now_s()
    async with service.connect() as client:
        assert await client.is_closed()
    assert 0.3 <= now_s() - started < PROMPT_S


@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\nX-A", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_half_a_head_is_answered_with_408(service: Service, part: bytes) -> None:
    async with service.connect() as client:
        started = now_s()
        await client.send(part)
        answer = await client.answer()
        assert answer.status == 408
        assert answer.problem()["code"] == "request_timeout"
        assert answer.headers["connection"] == "close"
        assert await client.is_closed()
    assert 0.3 <= now_s() - started < PROMPT_S


async def test_dripped_head_is_answered_with_408(service: Service) -> None:
    async with service.connect() as client:
        started = now_s()
        dripping = asyncio.create_task(_drip(client, b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 1000, 0.02))
        assert (await client.answer()).status == 408
        assert await client.is_closed()
        assert now_s() - started < PROMPT_S
        await dripping
    assert service.seen == []


async def test_dripped_empty_lines_are_no_way_to_stay(service: Service) -> None:
    async with service.connect() as client:
        dripping = asyncio.create_task(_drip(client, b"\r\n" * 100, 0.02))
        assert b" 400 " in await client.rest(timeout_s=PROMPT_S)
        await dripping


@pytest.mark.parametrize("framing", [b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1000\r\n"])
async def test_dripped_body_is_cut(service: Service, framing: bytes) -> None:
    async with service.connect() as client:
        started = now_s()
        await client.send(b"POST /echo HTTP/1.1\r\n" + HOST + framing)
        dripping = asyncio.create_task(_drip(client, b"a" * 1000, 0.02))
        assert await client.rest() == b""
        assert 0.3 <= now_s() - started < PROMPT_S
        await dripping
    assert service.seen == []


async def test_dripped_chunk_extension_is_cut(service: Service) -> None:
    async with service.connect() as client:
        await client.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1;")
        dripping = asyncio.create_task(_drip(client, b"a" * 1000, 0.02))
        assert await client.rest(timeout_s=PROMPT_S) == b""
        await dripping


async def test_body_that_stalls_after_a_fast_start_is_cut(service: Service) -> None:
    async with service.connect() as client:
        started = now_s()
        await client.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n" + b"a" * 100_000)
        assert await client.is_closed()
    assert now_s() - started < PROMPT_S


async def test_slow_body_above_the_least_rate_arrives(service: Service) -> None:
    async with service.connect() as client:
        await client.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 10000\r\n\r\n")
        for _ in range(20):  # 8,300 bytes/s for 1.2 s, four times the grace
            await client.send(b"a" * 500)
            await asyncio.sleep(0.06)
        answer = await client.answer()
    assert (answer.status, len(answer.body)) == (200, 10_000)


async def test_many_short_bodies_on_one_connection_do_not_add_up(service: Service) -> None:
    async with service.connect() as client:
        for _ in range(20):
            await client.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\na")
            await asyncio.sleep(0.06)
            await client.send(b"b")
            assert (await client.answer()).status == 200


async def test_body_that_waits_for_its_reader_is_not_slow(service: Service) -> None:
    size = 8 * 1024 * 1024  # far more than is buffered here and in the kernel
    async with service.connect() as client:
        await client.send(b"POST /slow-read?seconds=1.5 HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size)
        client.writer.write(b"a" * size)
        answer = await client.answer()
    assert (answer.status, answer.body) == (200, str(size).encode())


async def test_idle_connection_is_kept_for_a_while_and_then_closed(service: Service) -> None:
    async with service.connect() as client:
        for _ in range(3):
            await client.send(b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n")
            assert (await client.answer()).status == 200
            await asyncio.sleep(0.5)  # longer than a head may take
        started = now_s()
        assert await client.is_closed()
        assert now_s() - started < PROMPT_S


async def test_empty_line_after_a_request_does_not_begin_another(service: Service) -> None:
    async with service.connect() as client:
        await client.send(b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n\r\n")
        assert (await client.answer()).status == 200
        await asyncio.sleep(0.5)
        await client.send(b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await client.answer()).status == 200


async def test_long_work_is_waited_for(service: Service) -> None:
    async with service.connect() as client:
        await client.send(b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n")
        await asyncio.sleep(1.5)
        service.gate.set()
        assert (await client.answer()).body == b"waited"


async def test_long_answer_is_not_cut_while_the_client_says_nothing(service: Service) -> None:
    async with service.connect() as client:
        await client.send(b"GET /drip?events=15 HTTP/1.1\r\n" + HOST + b"\r\n")
        answer = await client.answer()
    assert answer.body.endswith(b"data: 14\n\n")


async def test_head_begun_behind_long_work_gets_its_time_afterwards(service: Service) -> None:
    async with service.connect() as client:
        await client.send(b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\nGET /echo HT")
        await asyncio.sleep(1.0)
        service.gate.set()
        assert (await client.answer()).body == b"waited"
        await asyncio.sleep(0.1)
        await client.send(b"TP/1.1\r\n" + HOST + b"\r\n")
        assert (await client.answer()).status == 200


async def test_reader_that_takes_nothing_is_cut(service: Service) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(0)
        loop, started = asyncio.get_running_loop(), now_s()
        await loop.sock_connect(client, ("127.0.0.1", service.port))
        await loop.sock_sendall(client, b"GET /download?pieces=400 HTTP/1.1\r\n" + HOST + b"\r\n")
        await _until(lambda: service.server.connections != [])
        await _until(lambda: service.server.connections == [])
        assert 0.8 <= now_s() - started < 3.0


async def test_reader_that_takes_nothing_of_a_finished_answer_is_cut(service: Service) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(0)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", service.port))
        size = 8 * 1024 * 1024
        head = b"POST /echo HTTP/1.1\r\nConnection: close\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size
        await loop.sock_sendall(client, head + b"a" * size)
        await _until(lambda: len(service.seen) == 1)
        await _until(lambda: service.server.connections == [])


async def test_slow_reader_is_served_to_the_end(service: Service) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.settimeout(0)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", service.port))
        await loop.sock_sendall(client, b"GET /download?pieces=100 HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
        received, started = 0, now_s()
        while data := await loop.sock_recv(client, 256 * 1024):
            received += len(data)
            await asyncio.sleep(0.02)
    assert received > 100 * 65536
    assert now_s() - started > SCALED.write_stall_s


async def test_websocket_is_left_alone(service: Service) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    key = b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    async with service.connect() as client:
        await client.send(b"GET /ws HTTP/1.1\r\n" + HOST + upgrade + key + b"\r\n")
        assert (await client.answer(head_only=True)).status == 101
        await asyncio.sleep(1.5)
        await client.send(b"\x81\x85\0\0\0\0hello")
        assert await client.reader.readexactly(7) == b"\x81\x05hello"


async def test_crowd_of_slow_clients_does_not_slow_the_others(service: Service) -> None:
    parts = [b"", b"GET / HTTP/1.1\r\nHos", b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\na"]

    async def dawdle(part: bytes) -> None:
        async with service.connect() as client:
            await client.send(part)
            await client.rest()

    async with asyncio.TaskGroup() as group:
        started = now_s()
        crowd = [group.create_task(dawdle(parts[number % 3])) for number in range(300)]
        async with service.connect() as client:
            while not all(task.done() for task in crowd):
                await client.send(b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n")
                assert (await client.answer(timeout_s=0.5)).status == 200
                await asyncio.sleep(0.01)
    assert now_s() - started < 3.0


def test_body_budget_is_a_leaky_bucket() -> None:
    deadlines, watch = Deadlines(), Watch(0.0)

    def too_slow(now: float, received: int, *, is_reading: bool = True) -> bool:
        return watch.is_body_too_slow(now, body=1, received=received, is_reading=is_reading, deadlines=deadlines)

    assert not too_slow(0.0, 0)
    assert not too_slow(7.0, 7)
    assert not too_slow(100.0, 7, is_reading=False)  # nobody read: that was not the client's doing
    assert too_slow(102.0, 9)
    assert not too_slow(103.0, 1_000_000)
    assert not too_slow(132.0, 1_000_000)
    assert too_slow(134.0, 1_000_000)
    # The next request's body starts afresh, though fewer bytes of it are here.
    assert not watch.is_body_too_slow(135.0, body=2, received=1, is_reading=True, deadlines=deadlines)


def test_head_is_due_from_when_it_is_its_turn() -> None:
    deadlines, watch = Deadlines(), Watch(0.0)

    def judge(now: float, head_since: float, requests: int) -> Verdict:
        return watch.judge_waiting(now, requests=requests, head_since=head_since, deadlines=deadlines)

    assert judge(9.0, 0.0, 0) is Verdict.KEEP
    assert judge(10.0, 0.0, 0) is Verdict.CLOSE
    assert judge(20.0, 12.0, 1) is Verdict.KEEP
    watch.touch(40.0)  # the request before was at work until here
    assert judge(49.0, 12.0, 1) is Verdict.KEEP
    assert judge(50.0, 12.0, 1) is Verdict.REFUSE
    assert judge(114.0, 0.0, 1) is Verdict.KEEP
    assert judge(115.0, 0.0, 1) is Verdict.CLOSE


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  what is waited for is the server's state, which tells nobody
            await asyncio.sleep(0.02)
