"""An OpenTelemetry collector of the tests: a real HTTP server that takes OTLP and keeps the spans."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A span as it arrived."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    is_error: bool
    attributes: dict[str, str | int]
    resource: dict[str, str | int]


@dataclass(slots=True, kw_only=True)
class Collector:
    """What has arrived so far, and the variables that send a process's spans here."""

    url: str
    spans: list[Received] = field(default_factory=list)
    raw: bytes = b""
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def env(self) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}

    async def wait_for(self, *wanted: Callable[[Received], bool], timeout_s: float = 60) -> list[Received]:
        """The first span that each of these asks for."""

        def find() -> list[Received]:
            return [next((span for span in self.spans if wants(span)), MISSING) for wants in wanted]

        async with asyncio.timeout(timeout_s), self.arrived:
            await self.arrived.wait_for(lambda: MISSING not in find())
        return find()


MISSING = Received(name="", kind="", trace_id="", span_id="", parent_id="", is_error=False, attributes={}, resource={})


@asynccontextmanager
async def run_collector() -> AsyncIterator[Collector]:
    """Collect on a free port."""
    collector = Collector(url="")

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        collector.raw += body
        async with collector.arrived:
            collector.spans += _read(ExportTraceServiceRequest.FromString(body))
            collector.arrived.notify_all()
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type="application/x-protobuf")

    app = web.Application(client_max_size=16 * 1024**2)
    app.router.add_post("/v1/traces", receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield collector
    finally:
        await runner.cleanup()


def _read(request: ExportTraceServiceRequest) -> list[Received]:
    return [
        Received(
            name=span.name,
            kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            is_error=span.status.code == 2,
            attributes=_attributes(span.attributes),
            resource=_attributes(of_resource.resource.attributes),
        )
        for of_resource in request.resource_spans
        for scope in of_resource.scope_spans
        for span in scope.spans
    ]


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, str | int]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}
