"""Forwarding one request: the gateway's data path, from an admitted request to its response."""

from aiohttp import ClientSession, web

from zenzefi.errors import ZenzefiError
from zenzefi.gateway.headers import Provenance
from zenzefi.gateway.models import Outcome
from zenzefi.gateway.paths import CanonicalPath
from zenzefi.gateway.relay import OnAnswer, Relay, watch_disconnect
from zenzefi.gateway.streams import OpenStream
from zenzefi.gateway.upstream import connector_of
from zenzefi.infra import tracing
from zenzefi.infra.http import UpstreamConnector
from zenzefi.infra.instruments import METHOD
from zenzefi.infra.tracing import Attributes, Span, SpanKind, start_span
from zenzefi.web.keys import CORRELATION


async def forward(
    request: web.Request,
    *,
    upstream: ClientSession,
    path: CanonicalPath,
    provenance: Provenance,
    stream: OpenStream,
    on_answer: OnAnswer,
) -> web.StreamResponse:
    """Send the request upstream and the answer back, streaming both ways.

    `on_answer` is awaited once the upstream has answered and before the client hears of it: what must happen only for
    requests that the upstream served belongs there. `stream` counts the bytes, can end the transfer and is told its
    outcome; opening and closing it is the caller's.

    When the client leaves before the answer, the request is dropped. But where the token is not activated and all of
    the request is on its way upstream, it goes on to its answer's head, bounded by the head timeout, and ends then.

    An error after the head of the answer has gone out breaks the client's connection off and is not raised.

    Raises:
        ZenzefiError: the upstream did not answer, the client left or sent a bad body, or the stream was ended, before
            the answer's head went out.
    """
    connector = connector_of(upstream)
    span = _start_span(request, connector) if tracing.is_on() else None
    if span is not None:
        provenance = provenance._replace(trace=span.correlation.header_lines())
    relay = Relay(request, connector=connector, stream=stream)
    stream.on_end = relay.end
    watch_disconnect(request, relay.client_gone)
    try:
        response = await relay.run(path, provenance, on_answer)
        if span is not None:
            span.note({"http.response.status_code": response.status})
        return response
    except ZenzefiError as error:
        relay.settle(error)
        raise
    finally:
        stream.on_end = None
        if span is not None:
            span.end(error=None if stream.outcome is Outcome.SERVED else stream.outcome.value)
        watch_disconnect(request, None)
        await relay.close()


def _start_span(request: web.Request, connector: UpstreamConnector) -> Span:
    url = connector.url
    method = request.method if request.method in METHOD.values else "_OTHER"
    attributes: Attributes = {
        "http.request.method": method,
        "server.address": url.host or "",
        "server.port": url.port or 0,
        "url.scheme": url.scheme,
    }
    return start_span(method, SpanKind.CLIENT, cause=request[CORRELATION], attributes=attributes)


async def defer_continue(_request: web.Request) -> None:
    """An expect_handler for the gateway's route: forward() itself invites the body, after all checks have passed."""
