"""A request's ids from the client through the gateway to the upstream, into log lines, spans and jobs."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.support.collector import Collector, run_collector
from tests.support.people import gateway_headers, register
from tests.support.serving import ROOT, Served
from tests.workers.conftest import journal_worker
from tests.workers.journal_worker import JOB
from zenzefi.app import create_app
from zenzefi.context import open_context
from zenzefi.infra.correlation import parse_traceparent
from zenzefi.infra.tracing import is_on, open_tracing
from zenzefi.server.runner import HardenedRunner
from zenzefi.settings import Settings
from zenzefi.web.auth import public
from zenzefi.web.keys import CTX

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACED = {
    "X-Request-ID": "their-own",
    "traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01",
    "tracestate": "congo=t61rcWkgMzE",
}
PROXY, ROUTE = "/api/v1/proxy", "/api/v1/proxy/{path}"

Serving = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with run_collector() as running:
        yield running


async def _token(client: aiohttp.ClientSession) -> str:
    person = await register(client)
    await person.top_up("1.00")
    token: str = (await person.buy_token(1))["token"]
    return token


async def _seen_upstream(client: aiohttp.ClientSession, headers: dict[str, str]) -> dict[str, str]:
    """The header fields that the upstream saw."""
    async with client.post(f"{PROXY}/echo?secret=in-the-query", headers=headers, data=b"12345") as response:
        assert response.status == 200, await response.text()
        return dict((await response.json())["headers"])


def _lines(log: str, **members: object) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.splitlines()]
    return [line for line in lines if all(line.get(name) == value for name, value in members.items())]


async def test_ids_reach_the_upstream_and_every_log_line(serving: Serving) -> None:
    async with serving(processes=1, UPSTREAM_HEAD_TIMEOUT="3") as served:
        async with aiohttp.ClientSession(served.url) as client:
            headers = gateway_headers(await _token(client))
            given = await _seen_upstream(client, headers | TRACED)
            made = await _seen_upstream(client, headers | {"traceparent": "nonsense", "tracestate": "a=1"})
            slow = headers | TRACED | {"X-Request-ID": "slow-one"}
            async with client.get(f"{PROXY}/slow?seconds=30", headers=slow) as response:
                assert (response.status, response.headers["X-Request-ID"]) == (504, "slow-one")
            async with client.get("/api/v1/nowhere", headers={"X-Request-ID": "lost"}) as response:
                assert response.status == 404
        log = await served.stop()

    assert (given["X-Request-ID"], given["tracestate"]) == ("their-own", TRACED["tracestate"])
    passed_on = parse_traceparent([given["traceparent"]])
    assert passed_on is not None
    assert (passed_on[0], passed_on[2]) == (TRACE_ID, 1)
    assert passed_on[1] != PARENT_ID
    assert "tracestate" not in made
    fresh = parse_traceparent([made["traceparent"]])
    assert fresh is not None

    (line,) = _lines(log, event="request", request_id="their-own")
    assert line.pop("duration_ms") >= line.pop("upstream_ms") > 0
    assert line.pop("bytes_out") > 100
    assert line.pop("user_id") == given["X-User-Id"]
    assert line.pop("token_id") == given["X-Token-Id"]
    assert {name: line[name] for name in line if name not in ("timestamp", "logger", "level", "event", "device")} == {
        "request_id": "their-own",
        "trace_id": TRACE_ID,
        "method": "POST",
        "route": ROUTE,
        "path": f"{PROXY}/echo",
        "status": 200,
        "code": None,
        "bytes_in": 5,
        "client_ip": "127.0.0.1",
        "outcome": "served",
    }
    assert _lines(log, event="request", request_id=made["X-Request-ID"], trace_id=fresh[0])
    (failed,) = _lines(log, event="request", request_id="slow-one")
    assert (failed["status"], failed["code"], failed["outcome"]) == (504, "upstream_timeout", "upstream_failed")
    assert _lines(log, event="request_refused", request_id="slow-one", trace_id=TRACE_ID)
    (lost,) = _lines(log, request_id="lost")
    assert (lost["code"], lost["route"], lost["path"]) == ("not_found", None, "/api/v1/nowhere")
    assert "in-the-query" not in log
    assert headers["X-Access-Token"] not in log


async def test_spans_of_a_request_and_its_upstream(serving: Serving, collector: Collector) -> None:
    async with serving(processes=1, **collector.env, OTEL_SERVICE_NAME="gate") as served:
        async with aiohttp.ClientSession(served.url) as client:
            headers = gateway_headers(await _token(client))
            upstream_saw = await _seen_upstream(client, headers | TRACED)
            async with client.get(f"{PROXY}/status/503", headers=headers) as response:
                assert response.status == 503
        server, outgoing, bad = await collector.wait_for(
            lambda span: span.kind == "SERVER" and span.trace_id == TRACE_ID,
            lambda span: span.kind == "CLIENT" and span.trace_id == TRACE_ID,
            lambda span: span.kind == "CLIENT" and span.is_error,
        )
        log = await served.stop()
    assert (server.name, server.parent_id) == (f"POST {ROUTE}", PARENT_ID)
    assert server.attributes["http.route"] == ROUTE
    assert server.attributes["http.response.status_code"] == 200
    assert not server.is_error
    assert server.resource["service.name"] == "gate"
    assert outgoing.parent_id == server.span_id
    assert upstream_saw["traceparent"] == f"00-{TRACE_ID}-{outgoing.span_id}-01"
    assert upstream_saw["tracestate"] == TRACED["tracestate"]
    assert bad.attributes["http.response.status_code"] == 503
    assert any(span.span_id == bad.parent_id and span.parent_id == "" for span in collector.spans)
    assert _lines(log, event="request", request_id="their-own", trace_id=TRACE_ID)
    for secret in (headers["X-Access-Token"], headers["X-Device-ID"], "in-the-query"):
        assert secret.encode() not in collector.raw


async def test_a_job_belongs_to_the_request_that_asked_for_it(
    env: dict[str, str], collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @public
    async def ask(request: web.Request) -> web.Response:
        await request.app[CTX].queue.enqueue(JOB, str(tmp_path))
        return web.Response()

    for name, value in collector.env.items():
        monkeypatch.setenv(name, value)
    with journal_worker(env | collector.env, tmp_path) as worker:
        async with open_context(Settings.from_env(env)) as ctx:
            assert is_on()
            app = create_app(ctx)
            app.router.add_post("/ask", ask)
            runner = HardenedRunner(app)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                url = f"http://127.0.0.1:{runner.addresses[0][1]}/ask"
                async with aiohttp.ClientSession() as client, client.post(url, headers=TRACED) as response:
                    assert response.status == 200
            finally:
                await runner.cleanup()
        assert not is_on()
        done = await worker.wait_for("job_done", job=JOB.value)
        server, run = await collector.wait_for(
            lambda span: span.kind == "SERVER", lambda span: span.kind == "CONSUMER" and span.name == JOB.value
        )
    assert (done["request_id"], done["trace_id"]) == ("their-own", TRACE_ID)
    assert (server.parent_id, run.parent_id) == (PARENT_ID, server.span_id)
    assert {server.trace_id, run.trace_id} == {TRACE_ID}


async def test_sampler_is_the_one_that_the_environment_names(serving: Serving, collector: Collector) -> None:
    async with serving(processes=1, **collector.env, OTEL_TRACES_SAMPLER="parentbased_always_off") as served:
        async with aiohttp.ClientSession(served.url) as client:
            for headers in ({}, TRACED):
                async with client.get("/health", headers=headers) as response:
                    assert response.status < 600
        (sampled,) = await collector.wait_for(lambda span: span.kind == "SERVER")
        await served.stop()
    assert sampled.parent_id == PARENT_ID
    assert [span.trace_id for span in collector.spans if span.kind == "SERVER"] == [TRACE_ID]


async def test_missing_packages_are_told_of_and_nothing_else_happens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    async with open_tracing():
        assert not is_on()
    assert "pip install zenzefi[otel]" in caplog.text


def test_without_a_collector_the_library_is_not_even_loaded() -> None:
    code = (
        "import sys, zenzefi.app, workers.main; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


async def test_dead_collector_neither_holds_requests_up_nor_the_end(serving: Serving) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    async with serving(processes=1, **env) as served:
        async with aiohttp.ClientSession(served.url) as client:
            headers = gateway_headers(await _token(client))
            for _ in range(50):
                await _seen_upstream(client, headers)
        log = await served.stop()
    assert served.process.returncode == 0
    assert len(_lines(log, event="request", route=ROUTE)) == 50
