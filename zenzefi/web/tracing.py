"""The span of a request, by OpenTelemetry's conventions for HTTP; only where tracing is on."""

from aiohttp import web
from aiohttp.typedefs import Handler

from zenzefi.infra.correlation import correlate
from zenzefi.infra.instruments import METHOD
from zenzefi.infra.tracing import SpanKind, start_span
from zenzefi.web.addresses import client_ip
from zenzefi.web.keys import CORRELATION


@web.middleware
async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Surround a request with its span, which its log lines and all that it causes name as their parent."""
    method = request.method if request.method in METHOD.values else "_OTHER"
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else ""
    version = request.version
    cause = correlate(request.headers)
    # No path and no query: what a client puts there may be a secret. The template says which route it was.
    attributes = {
        "http.request.method": method,
        "url.scheme": request.scheme,
        "client.address": str(client_ip(request)),
        "network.protocol.version": f"{version.major}.{version.minor}",
        "zenzefi.request_id": cause.request_id,
    }
    if route:
        attributes["http.route"] = route
    span = start_span(f"{method} {route}".rstrip(), SpanKind.SERVER, cause=cause, attributes=attributes)
    request[CORRELATION] = span.correlation
    error: str | None = "client_gone"
    try:
        response = await handler(request)
        span.note({"http.response.status_code": response.status})
        error = str(response.status) if response.status >= 500 else None
        return response
    finally:
        span.end(error=error)
