"""What every request passes: its id, its one log line, its errors as problem documents, and the check of who asks."""

import time
from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import structlog
from aiohttp import ServerDisconnectedError, web
from aiohttp.http import SERVER_SOFTWARE
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestPayloadError

from zenzefi.errors import BadRequest, ZenzefiError
from zenzefi.infra.correlation import CURRENT, Correlation, correlate
from zenzefi.infra.instruments import CLIENT_CLOSED, HTTP_DURATION, HTTP_REQUESTS
from zenzefi.infra.logging import log_request
from zenzefi.web.addresses import Client, client_of
from zenzefi.web.auth import authenticate, is_public
from zenzefi.web.direct import send_at_once
from zenzefi.web.keys import CORRELATION, CTX, IDENTITY, LOG_FIELDS, RATE_LIMIT, REQUEST_ID
from zenzefi.web.problem import code_of, error_response, http_exception_response, status_response
from zenzefi.web.validation import validate

SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
)
# Of a path, which may be as long as a whole request line, in a log line.
MAX_LOGGED_PATH_CHARS = 256
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
HSTS = "max-age=63072000; includeSubDomains"

log = structlog.get_logger(__name__)


@web.middleware
async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its ids, turn its error into a problem document, and write its log line."""
    started = time.perf_counter()
    correlation = request.get(CORRELATION)  # there already where tracing has begun a span
    if correlation is None:
        correlation = request[CORRELATION] = correlate(request.headers)
    request_id = request[REQUEST_ID] = correlation.request_id
    token = CURRENT.set(correlation)
    response: web.StreamResponse | None = None
    code = None
    try:
        response = await handler(request)
    except Exception as error:
        response, code = answer_error(request, error, request_id=request_id)
        if response is None:
            raise
    finally:
        _take_note(request, response, code, time.perf_counter() - started)
        CURRENT.reset(token)
    return await send_at_once(request, response, partial(_common_fields_of, request, request_id))


def answer_error(request: web.Request, error: Exception, *, request_id: str) -> tuple[web.StreamResponse | None, str]:
    """The response for what a handler raised, and its code; no response where nobody is left to get it.

    Call it where the error is being handled: one of ours that was not foreseen is logged with its traceback.
    """
    if isinstance(error, ZenzefiError):
        if error.status >= 500:
            log.warning("request_refused", request_id=request_id, code=error.code, cause=_name_cause(error.__cause__))
        return error_response(error, request_id), error.code
    if isinstance(error, web.HTTPException):
        return http_exception_response(error, request_id), code_of(error.status)
    if isinstance(error, RequestPayloadError):
        broken = BadRequest("The body's framing is broken.")
        return error_response(broken, request_id), broken.code
    if isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
        return None, "client_gone"
    log.error("request_failed", request_id=request_id, exc_info=error)
    detail = "Something went wrong on our side. Give us the request_id if it happens again."
    return status_response(500, detail, request_id), code_of(500)


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Deny by default: whoever calls a route is signed in unless it is public."""
    if request.match_info.http_exception is not None:
        return await handler(request)
    route_handler = request.match_info.handler
    if not is_public(route_handler):
        request[IDENTITY] = await authenticate(request)
    return await handler(request)


@web.middleware
async def check_input(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check body and query against what the handler declares."""
    schemas = getattr(request.match_info.handler, "__schemas__", None)
    if schemas:
        await validate(request, schemas)
    return await handler(request)


async def set_common_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Put the request's id and the security headers on every response, streams included."""
    headers = response.headers
    # A request that aiohttp itself refuses never met the middleware.
    request_id = request.get(REQUEST_ID) or correlate(request.headers).request_id
    headers.update(_common_fields_of(request, request_id))
    if headers.get("Server") == SERVER_SOFTWARE:
        del headers["Server"]


def _common_fields_of(request: web.Request, request_id: str) -> tuple[tuple[str, str], ...]:
    return common_fields(request_id, request.get(RATE_LIMIT, ()), over_tls=came_over_tls(request))


def common_fields(request_id: str, limits: Iterable[tuple[str, str]], *, over_tls: bool) -> tuple[tuple[str, str], ...]:
    """The fields of every response; `limits` are those that tell what is left of a rate limit."""
    if over_tls:
        return (("X-Request-ID", request_id), *SECURITY_HEADERS, *limits, ("Strict-Transport-Security", HSTS))
    return (("X-Request-ID", request_id), *SECURITY_HEADERS, *limits)


def came_over_tls(request: web.Request) -> bool:
    """Whether a trusted proxy says that it took the request over TLS."""
    return _client_of(request).is_behind_proxy and request.headers.get("X-Forwarded-Proto") == "https"


def _client_of(request: web.Request) -> Client:
    return client_of(request, request.app[CTX].settings.trusted_proxies)


def _name_cause(cause: BaseException | None) -> str:
    # The text of these two repeats what a peer sent, cookies included.
    return type(cause).__name__ if isinstance(cause, HttpProcessingError | ServerDisconnectedError) else repr(cause)


def _take_note(request: web.Request, response: web.StreamResponse | None, code: str | None, duration_s: float) -> None:
    """Count the request and write its line; what a handler knows better stands in LOG_FIELDS."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else None
    status = status_of(response, code)
    HTTP_REQUESTS.labels(request.method, route, status).inc()
    HTTP_DURATION.labels(route).observe(duration_s)
    identity = request.get(IDENTITY)
    fields = line_of(
        request,
        request[CORRELATION],
        route=route,
        status=status,
        code=code,
        duration_s=duration_s,
        bytes_out=response.content_length or 0 if response is not None else 0,
        client_ip=_client_of(request).text,
    )
    if identity is not None:
        fields["user_id"] = str(identity.user_id)
    fields.update(request.get(LOG_FIELDS, _NOTHING))
    log_request(fields)


def line_of(
    request: web.Request,
    correlation: Correlation,
    *,
    route: str | None,
    status: int,
    code: str | None,
    duration_s: float,
    bytes_out: int,
    client_ip: str | None,
) -> dict[str, Any]:
    """What the log line of every request tells."""
    message = request._message  # noqa: SLF001  the request's own properties are several times as slow
    return {
        "request_id": correlation.request_id,
        "trace_id": correlation.trace_id,
        "method": message.method,
        "route": route,
        "path": message.path.partition("?")[0][:MAX_LOGGED_PATH_CHARS],
        "status": status,
        "code": code,
        "duration_ms": round(duration_s * 1000, 3),
        "bytes_in": request.content.total_bytes,
        "bytes_out": bytes_out,
        "client_ip": client_ip,
        "user_id": None,
    }


def status_of(response: web.StreamResponse | None, code: str | None) -> int:
    """The status that a request counts with."""
    if response is not None:
        return response.status
    return CLIENT_CLOSED if code == "client_gone" else 500
