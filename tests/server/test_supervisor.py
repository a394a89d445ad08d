"""Several processes on shared sockets: started, crashed, replaced under load, stopped."""

import asyncio
import contextlib
import os
import signal
import socket
from itertools import permutations
from pathlib import Path

import pytest

from tests.server.supervised import Load, Supervised, stopped, supervised, wait_gone
from tests.server.support import HOST, Client
from tests.support.patience import patient_clock

WHO = b"GET /process HTTP/1.1\r\n" + HOST + b"\r\n"
DRIP = b"GET /drip?events=10 HTTP/1.1\r\n" + HOST + b"\r\n"  # an answer that takes a second
HANG = b"GET /hang HTTP/1.1\r\n" + HOST + b"\r\n"


async def test_three_rolling_restarts_under_load_lose_no_request() -> None:
    async with supervised(2) as running:
        await running.logged("serving")
        load = Load(running.port)
        loading = asyncio.create_task(load.run(keeping=8, fresh=2))
        for restart in range(1, 4):
            running.signal(signal.SIGHUP)
            await running.logged("rolling_restart_done", times=restart)
            new = {event["process_id"] for event in running.events if event["event"] == "process_ready"}
            while not new <= load.answered_by:  # noqa: ASYNC110  each restart brings new processes that serve
                await asyncio.sleep(0.02)
        while load.answered < 2000:  # noqa: ASYNC110  however slow the machine is
            await asyncio.sleep(0.05)
        load.is_over = True
        await loading
        assert load.failures == []
        assert len(load.answered_by) == 8


async def test_rolling_restart_with_broken_code_keeps_the_old_processes(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    async with supervised(2, environ={"BROKEN_WHEN_EXISTS": str(broken)}) as running:
        await running.logged("serving")
        before = set(running.children())
        broken.touch()
        running.signal(signal.SIGHUP)
        event = await running.logged("rolling_restart_stopped")
        assert "the new code is broken" in event["reason"]
        assert event["consequence"] == "the old processes keep serving"
        assert await running.who_answers() in before
        assert set(running.children()) == before
        broken.unlink()
        running.signal(signal.SIGHUP)
        await running.logged("rolling_restart_done")
        async with asyncio.timeout(30):
            while await running.who_answers() in before:  # noqa: ASYNC110  an old one may take what came before its signal
                await asyncio.sleep(0.05)


async def test_connection_that_pauses_during_a_restart_is_told_at_its_next_request() -> None:
    async with supervised(2) as running:
        await running.logged("serving")
        before = set(running.children())
        async with running.connect() as pausing, running.connect() as silent:
            for client in (pausing, silent):
                await client.send(WHO)
                assert int((await client.answer()).body) in before
            running.signal(signal.SIGHUP)
            await running.logged("rolling_restart_done")
            await asyncio.sleep(1.5)  # longer than a stop would wait for it
            await pausing.send(WHO)
            answer = await pausing.answer()
            assert int(answer.body) in before
            assert answer.headers["connection"] == "close"
            with patient_clock() as clock:
                started = clock()
                running.signal(signal.SIGTERM)
                assert await running.ended() == 0
                assert clock() - started < 5
            assert await silent.is_closed()


async def test_hangup_during_a_rolling_restart_leads_to_another() -> None:
    async with supervised(2) as running:
        await running.logged("serving")
        running.signal(signal.SIGHUP)
        await running.logged("rolling_restart")
        running.signal(signal.SIGHUP)
        await running.logged("rolling_restart_done", times=2)
        assert running.count("process_ready") == 6


async def test_killed_process_is_replaced_while_the_other_serves() -> None:
    async with supervised(2) as running:
        await running.logged("serving")
        victim, survivor = running.children()
        running.signal(signal.SIGCHLD)  # a stray signal means nothing
        for killed in (victim, survivor):
            ready = running.count("process_ready")
            os.kill(killed, signal.SIGKILL)
            event = await running.logged("process_died", times=1 if killed == victim else 2)
            assert event["reason"] == "It was ended by SIGKILL."
            assert await running.who_answers() != killed
            await running.logged("process_ready", times=ready + 1)
        assert len(running.children()) == 2


async def test_killed_supervisor_takes_its_processes_along() -> None:
    async with supervised(3) as running:
        await running.logged("serving")
        children = running.children()
        assert len(children) == 3
        running.signal(signal.SIGKILL)
        await wait_gone(children)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_idle_stack_stops_within_five_seconds(number: signal.Signals) -> None:
    async with supervised(2) as running, asyncio.timeout(60):
        await running.logged("serving")
        children = running.children()
        async with running.connect() as idle:
            await idle.send(b"GET /process HTTP/1.1\r\n" + HOST + b"\r\n")
            await idle.answer()
            with patient_clock() as clock:
                started = clock()
                running.signal(number)
                assert await running.ended() == 0
                assert clock() - started < 5
            assert await idle.is_closed()
        await wait_gone(children)


async def test_answers_in_progress_are_finished_before_the_stop() -> None:
    async with supervised(2) as running:
        await running.logged("serving")
        async with running.connect() as client:
            await client.send(DRIP)
            await client.reader.readuntil(b"data: 0")
            running.signal(signal.SIGTERM)
            rest = await client.rest()
        assert rest.endswith(b"data: 9\n\n\r\n0\r\n\r\n")
        assert await running.ended() == 0


async def test_hanging_request_is_cut_when_the_drain_time_is_up() -> None:
    async with supervised(1, environ={"DRAIN_TIMEOUT": "0.5"}) as running:
        await running.logged("serving")
        async with running.connect() as client:
            await client.send(HANG)
            await client.answer(head_only=True)
            running.signal(signal.SIGTERM)
            assert await client.is_closed()
        assert await running.ended() == 0
    assert running.count("drain_timed_out") == 1  # its last lines have been read by now


async def test_long_answer_outlives_the_replacement_of_its_process() -> None:
    async with supervised(1, environ={"DRAIN_TIMEOUT": "0.2"}) as running:
        await running.logged("serving")
        async with running.connect() as client:
            await client.send(b"GET /drip?events=20 HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
            await client.reader.readuntil(b"data: 0")
            running.signal(signal.SIGHUP)
            await running.logged("rolling_restart_done")
            assert (await client.rest()).endswith(b"data: 19\n\n\r\n0\r\n\r\n")


async def test_stop_does_not_wait_for_a_replaced_process_as_long_as_its_successor_did() -> None:
    async with supervised(1, environ={"DRAIN_TIMEOUT": "0.5"}) as running:
        await running.logged("serving")
        async with running.connect() as client:
            await client.send(HANG)
            await client.answer(head_only=True)
            running.signal(signal.SIGHUP)
            await running.logged("rolling_restart_done")
            with patient_clock() as clock:
                started = clock()
                running.signal(signal.SIGTERM)
                assert await client.is_closed()
                assert await running.ended() == 0
                assert clock() - started < 5
    assert running.count("drain_timed_out") == 1


async def test_replaced_processes_do_not_pile_up() -> None:
    async with supervised(1, environ={"DRAIN_TIMEOUT": "0.2"}) as running, contextlib.AsyncExitStack() as stack:
        await running.logged("serving")
        hanging: list[Client] = []
        seen: set[int] = set()
        for restart in range(1, 4):
            hanging.append(await _connect_to_another(running, stack, seen))
            await hanging[-1].send(HANG)
            await hanging[-1].answer(head_only=True)
            running.signal(signal.SIGHUP)
            await running.logged("rolling_restart_done", times=restart)
        assert await hanging[0].is_closed()
        await running.logged("drain_timed_out")
        async with asyncio.timeout(30):
            while len(running.children()) != 3:  # noqa: ASYNC110  one that has ended is a child until it is waited for
                await asyncio.sleep(0.02)
        assert running.count("drain_timed_out") == 1


async def test_second_signal_ends_everything_at_once() -> None:
    async with supervised(2) as running:
        await running.logged("serving")
        children = running.children()
        async with running.connect() as client:
            await client.send(HANG)
            await client.answer(head_only=True)
            running.signal(signal.SIGINT)
            await running.logged("stopping")
            with patient_clock() as clock:
                started = clock()
                running.signal(signal.SIGINT)
                assert await running.ended() == 1
                assert clock() - started < 10, "nobody waited for the drain"
        await wait_gone(children)


async def test_signal_during_the_start_stops_it() -> None:
    async with supervised(2) as running:
        while not running.children():  # noqa: ASYNC110  nothing is logged that early
            await asyncio.sleep(0.01)
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0


async def test_taken_port_is_named_with_the_way_out() -> None:
    for variable in ("PORT", "INTERNAL_PORT"):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            async with supervised(2, environ={variable: str(port)}) as running:
                assert await running.ended() == 1
        (event,) = running.events
        assert event["event"] == "start_failed"
        assert f"Port {port} of 127.0.0.1 is in use" in event["reason"]
        assert f"set {variable} to a free port" in event["reason"]


async def test_bad_host_is_named() -> None:
    hasty = {"RES_OPTIONS": "timeout:1 attempts:1"}  # for a machine whose name servers do not answer
    for host, reason in (("192.0.2.1", "is not an address of this machine"), ("nowhere.invalid.", "is no address")):
        async with supervised(1, environ={"HOST": host, **hasty}) as running:
            assert await running.ended() == 1
        assert f"HOST={host} {reason}" in running.events[-1]["reason"]


async def test_processes_that_cannot_start_say_why_once(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    async with supervised(3, environ={"BROKEN_WHEN_EXISTS": str(tmp_path / "broken")}) as running:
        assert await running.ended() == 1
    assert running.count("start_failed") == 1
    (event,) = (found for found in running.events if found["event"] == "start_failed")
    assert "RuntimeError: the new code is broken" in event["reason"]


async def test_process_that_cannot_start_while_another_serves_is_tried_again(tmp_path: Path) -> None:
    others, broken = tmp_path / "others", tmp_path / "broken"
    environ = {"FIRST_AND_OTHERS": f"{tmp_path / 'first'}:{others}", "BROKEN_WHEN_EXISTS": str(broken)}
    async with supervised(2, environ=environ) as running:
        first = (await running.logged("process_ready"))["process_id"]
        broken.touch()
        others.touch()
        await running.logged("process_died")
        assert await running.who_answers() == first
        broken.unlink()
        assert (await running.logged("serving"))["processes"] == 2


async def test_both_ports_are_shared_by_all_processes() -> None:
    async with supervised(2) as running:
        await running.logged("serving")
        for port in (running.port, running.internal_port):
            running.port = port
            for stands_still, serves in permutations(running.children()):
                async with stopped(stands_still):
                    assert await running.who_answers() == serves


async def _connect_to_another(running: Supervised, stack: contextlib.AsyncExitStack, seen: set[int]) -> Client:
    """A connection to a process not seen before: one that was told to leave may still accept for a moment."""
    while True:
        client = await stack.enter_async_context(running.connect())
        await client.send(b"GET /process HTTP/1.1\r\n" + HOST + b"\r\n")
        process_id = int((await client.answer()).body)
        if process_id not in seen:
            seen.add(process_id)
            return client
