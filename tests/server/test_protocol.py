"""What handlers may rely on: news of a client that left, tunnels, a drain that loses nothing, discreet errors."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.server.support import HOST, Service, now_s, serving
from zenzefi.server.deadlines import Deadlines

GET = b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n"
WAIT = b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.fixture(name="service")
async def _service() -> AsyncIterator[Service]:
    # A head may take longer than a test waits for what it expects.
    async with serving(deadlines=Deadlines(linger_s=0.3, head_s=60.0)) as service:
        yield service


async def _event(service: Service) -> str:
    async with asyncio.timeout(30):
        return await service.events.get()


async def test_handler_learns_at_once_that_its_client_left_and_is_not_cancelled(service: Service) -> None:
    for reset in (False, True):
        service.gate.clear()
        async with service.connect() as client:
            await client.send(WAIT)
            assert await _event(service) == "waiting"
            if reset:
                client.writer.transport.abort()
        started = now_s()
        assert await _event(service) == "gone"
        assert now_s() - started < 1.0
        service.gate.set()
        assert await _event(service) == "done"


async def test_nobody_learns_of_a_client_that_left_after_its_answer(service: Service) -> None:
    service.gate.set()
    async with service.connect() as client:
        await client.send(WAIT)
        assert (await client.answer()).body == b"waited"
        await client.send(GET)
        assert (await client.answer()).status == 200
    async with service.connect() as other:
        await other.send(GET)
        await other.answer()
    assert [service.events.get_nowait() for _ in range(service.events.qsize())] == ["waiting", "done"]


async def test_error_of_a_handler_tells_nothing_of_the_inside(service: Service) -> None:
    async with service.connect() as client:
        await client.send(b"GET /fail HTTP/1.1\r\n" + HOST + b"\r\n")
        answer = await client.answer()
        assert answer.status == 500
        assert answer.problem()["code"] == "internal_error"
        assert b"inside" not in answer.body
        assert answer.headers["x-request-id"]
        assert await client.is_closed()


async def test_refusal_waits_for_the_answers_before_it(service: Service) -> None:
    async with service.connect() as client:
        await client.send(WAIT + b"JUNK\0")
        assert await _event(service) == "waiting"
        service.gate.set()
        assert (await client.answer()).body == b"waited"
        assert (await client.answer()).status == 400
        assert await client.is_closed()


async def test_refusal_arrives_though_the_client_is_still_sending(service: Service) -> None:
    async with service.connect() as client:
        for _ in range(20):
            client.writer.write(b"GET /" + b"a" * 20_000)
        assert (await client.answer()).status == 414
        assert await client.is_closed()


async def test_answer_before_the_body_was_sent_arrives(service: Service) -> None:
    head = b"POST /ignore HTTP/1.1\r\n" + HOST + b"Content-Length: 400000\r\n\r\n"
    async with service.connect() as client:
        await client.send(head)
        assert (await client.answer()).status == 401
        await client.send(b"a" * 400_000 + GET)
        assert (await client.answer()).status == 200


async def test_websocket_works_and_a_declined_upgrade_goes_on_with_http(service: Service) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{service.port}/ws") as ws:
        for size in (1, 200, 70_000):
            await ws.send_str("x" * size)
            assert await ws.receive_str() == "x" * size
    upgrade = b"GET /echo HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + HOST + b"\r\n"
    async with service.connect() as client:
        await client.send(upgrade + GET + b"JUNK\0")
        assert [(await client.answer()).status for _ in range(3)] == [200, 200, 400]
        assert await client.is_closed()


async def test_who_sends_many_requests_at_once_leaves_the_others_their_turns(service: Service) -> None:
    most, seen = 0, 0
    async with service.connect() as client, asyncio.timeout(30):
        client.writer.write(GET * 500)
        while seen < 500:
            await asyncio.sleep(0)
            most, seen = max(most, len(service.seen) - seen), len(service.seen)
    assert most <= 2


async def test_drain_answers_what_has_begun_and_then_closes() -> None:
    async with (
        serving(deadlines=Deadlines(linger_s=5.0)) as service,  # which nobody here waits for
        service.connect() as busy,
        service.connect() as idle,
        service.connect() as fresh,
    ):
        await idle.send(GET)
        assert "connection" not in (await idle.answer()).headers
        await busy.send(WAIT)
        assert await _event(service) == "waiting"
        draining = asyncio.create_task(service.runner.drain(timeout_s=30))
        await asyncio.sleep(0.1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", service.port)
        # What was on its way to an open connection is served, on one that has served before and on one that has not.
        for client in (idle, fresh):
            await client.send(GET)
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await client.is_closed()
        assert not draining.done()
        service.gate.set()
        answer = await busy.answer()
        assert (answer.body, answer.headers["connection"]) == (b"waited", "close")
        assert await busy.is_closed()
        assert await draining == 0


async def test_drain_closes_idle_connections_after_a_moment(service: Service) -> None:
    async with service.connect() as idle, service.connect() as fresh:
        await idle.send(GET)
        await idle.answer()
        started = now_s()
        assert await service.runner.drain(timeout_s=30) == 0
        assert 0.3 <= now_s() - started < 1.5
        assert await idle.is_closed()
        assert await fresh.is_closed()


async def test_drain_answers_every_request_that_was_pipelined(service: Service) -> None:
    async with service.connect() as client:
        await client.send(WAIT + GET + GET)
        assert await _event(service) == "waiting"
        draining = asyncio.create_task(service.runner.drain(timeout_s=30))
        await asyncio.sleep(0.1)
        service.gate.set()
        answers = [await client.answer() for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 200]
        assert [answer.headers.get("connection") for answer in answers] == [None, None, "close"]
        assert await client.is_closed()
        assert await draining == 0


async def test_drain_cuts_what_outlasts_its_time(service: Service) -> None:
    async with service.connect() as client:
        await client.send(WAIT)
        assert await _event(service) == "waiting"
        assert await service.runner.drain(timeout_s=0.3) == 1
        await service.runner.cleanup()
        assert await client.is_closed()


def test_server_refuses_to_run_without_the_c_parser() -> None:
    program = (
        "from aiohttp import web; from zenzefi.server.runner import HardenedRunner; HardenedRunner(web.Application())"
    )
    environ = {**os.environ, "AIOHTTP_NO_EXTENSIONS": "1"}
    ran = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=30)
    assert ran.returncode != 0
    assert "ServerError: aiohttp runs without its C extension. Unset AIOHTTP_NO_EXTENSIONS" in ran.stderr
