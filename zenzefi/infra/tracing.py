"""OpenTelemetry spans, for those who have installed zenzefi[otel] and name a collector; without that, nothing at all.

The only module that knows the library, and it loads it only then. The library's own variables (OTEL_*) say where spans
go, how many are kept and what the service is called; it reads them itself. Spans are sent by a thread of its own.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from enum import Enum
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import structlog

import zenzefi
from zenzefi.infra.correlation import Correlation

if TYPE_CHECKING:
    from opentelemetry import trace as otel
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

# No secret, no query and no id of a person may be among them.
Attributes = Mapping[str, str | int]

_SWITCHES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
# What a process that ends waits for a collector at most.
_LAST_EXPORT_S: Final = 2.0

_tracer: "otel.Tracer | None" = None

log = structlog.get_logger(__name__)


class SpanKind(Enum):
    """What a span is one side of; the values are the library's names."""

    SERVER = "SERVER"
    CLIENT = "CLIENT"
    CONSUMER = "CONSUMER"


class Span:
    """A span that has begun. ``correlation`` names it as the parent of what follows."""

    __slots__ = ("_span", "correlation")

    def __init__(self, span: "otel.Span", correlation: Correlation) -> None:
        self._span = span
        self.correlation = correlation

    def note(self, attributes: Attributes) -> None:
        """Add what is known only now."""
        self._span.set_attributes(attributes)

    def end(self, *, error: str | None = None) -> None:
        """End it; ``error`` is the kind of what went wrong, never a message, which may hold anything."""
        if error is not None:
            from opentelemetry.trace import StatusCode  # late: see the module docstring

            self._span.set_attribute("error.type", error)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def is_on() -> bool:
    """Whether spans are made; ask before computing what only a span needs."""
    return _tracer is not None


def start_span(name: str, kind: SpanKind, *, cause: Correlation, attributes: Attributes) -> Span:
    """Begin a span, to be ended by its end(); only while is_on().

    A client's span belongs below ``cause`` itself, another one below what caused that, if anything did.
    """
    from opentelemetry import trace  # late: see the module docstring

    assert _tracer is not None
    parent_id = cause.span_id if kind is SpanKind.CLIENT else cause.parent_id
    span = _tracer.start_span(
        name,
        context=_context(cause, parent_id),
        kind=trace.SpanKind[kind.value],
        attributes=dict(attributes),
    )
    made = span.get_span_context()
    return Span(
        span,
        Correlation(
            cause.request_id,
            trace.format_trace_id(made.trace_id),
            trace.format_span_id(made.span_id),
            parent_id,
            int(made.trace_flags),
            made.trace_state.to_header(),
        ),
    )


@asynccontextmanager
async def open_tracing() -> AsyncIterator[None]:
    """Make spans meanwhile where the environment asks for it; at the end, send what is left."""
    global _tracer  # noqa: PLW0603  a process has one tracer as it has one log
    provider = _provider(os.environ)
    if provider is None:
        yield
        return
    _tracer = provider.get_tracer("zenzefi", zenzefi.__version__)
    try:
        yield
    finally:
        _tracer = None
        # A thread that nobody waits for in the end: the library gives a collector that hangs half a minute.
        last_export = threading.Thread(target=provider.shutdown, name="last-spans", daemon=True)
        last_export.start()
        await asyncio.to_thread(last_export.join, _LAST_EXPORT_S)
        if last_export.is_alive():
            log.warning("spans_lost", reason="the collector did not take them in time")


def _context(cause: Correlation, parent_id: str) -> "Context":
    from opentelemetry import trace  # late: see the module docstring
    from opentelemetry.context import Context

    if not parent_id:
        return Context()
    parent = trace.SpanContext(
        int(cause.trace_id, 16),
        int(parent_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(cause.flags),
        trace_state=trace.TraceState.from_header([cause.tracestate] if cause.tracestate else []),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())


def _provider(environ: Mapping[str, str]) -> "TracerProvider | None":
    """What makes the spans; None where nobody asked for them, or nobody could send them."""
    wanted = any(environ.get(name) for name in _SWITCHES)
    if not wanted or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    try:
        exporter = _exporter(environ.get("OTEL_TRACES_EXPORTER") or "otlp")
    except ImportError:
        log.warning("tracing_unavailable", reason="its packages are missing: pip install zenzefi[otel]")
        return None
    if exporter is None:
        return None
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    defaults = {"service.name": environ.get("OTEL_SERVICE_NAME") or "zenzefi", "service.version": zenzefi.__version__}
    resource = Resource.create({**defaults, "service.instance.id": str(uuid4()), "process.pid": os.getpid()})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter(name: str) -> "SpanExporter | None":
    if name == "none":
        return None
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if name != "otlp":
        log.warning("tracing_unavailable", reason="OTEL_TRACES_EXPORTER may be otlp, console or none")
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
