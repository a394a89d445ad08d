"""What every request passes: its id, its one log line, its errors as problem documents, and the check of who asks."""

import time

import structlog
from aiohttp import ServerDisconnectedError, web
from aiohttp.http import SERVER_SOFTWARE
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestPayloadError

from zenzefi.errors import BadRequest, ZenzefiError
from zenzefi.infra.correlation import CURRENT, correlate
from zenzefi.infra.instruments import CLIENT_CLOSED, HTTP_DURATION, HTTP_REQUESTS
from zenzefi.infra.logging import log_request
from zenzefi.web.addresses import client_ip_text, is_from_trusted_proxy
from zenzefi.web.auth import authenticate, is_public
from zenzefi.web.keys import CORRELATION, IDENTITY, LOG_FIELDS, RATE_LIMIT, REQUEST_ID
from zenzefi.web.problem import code_of, error_response, http_exception_response, status_response
from zenzefi.web.validation import validate

SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
)
# Of a path, which may be as long as a whole request line, in a log line.
MAX_LOGGED_PATH_CHARS = 256
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
    except ZenzefiError as error:
        code = error.code
        if error.status >= 500:
            log.warning("request_refused", request_id=request_id, code=code, cause=_name_cause(error.__cause__))
        response = error_response(error, request_id)
    except web.HTTPException as error:
        code = code_of(error.status)
        response = http_exception_response(error, request_id)
    except RequestPayloadError:
        broken = BadRequest("The body's framing is broken.")
        code = broken.code
        response = error_response(broken, request_id)
    except Exception as error:
        if isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
            code = "client_gone"  # nobody is left to answer
            raise
        log.exception("request_failed", request_id=request_id)
        code = code_of(500)
        response = status_response(
            500, "Something went wrong on our side. Give us the request_id if it happens again.", request_id
        )
    finally:
        _take_note(request, response, code, time.perf_counter() - started)
        CURRENT.reset(token)
    return response


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
    headers["X-Request-ID"] = request.get(REQUEST_ID) or correlate(request.headers).request_id
    for name, value in SECURITY_HEADERS:
        headers[name] = value
    for name, value in request.get(RATE_LIMIT, ()):
        headers[name] = value
    if is_from_trusted_proxy(request) and request.headers.get("X-Forwarded-Proto") == "https":
        headers["Strict-Transport-Security"] = HSTS
    if headers.get("Server") == SERVER_SOFTWARE:
        del headers["Server"]


def _name_cause(cause: BaseException | None) -> str:
    # The text of these two repeats what a peer sent, cookies included.
    return type(cause).__name__ if isinstance(cause, HttpProcessingError | ServerDisconnectedError) else repr(cause)


def _take_note(request: web.Request, response: web.StreamResponse | None, code: str | None, duration_s: float) -> None:
    """Count the request and write its line; what a handler knows better stands in LOG_FIELDS."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else None
    status = _status_of(response, code)
    HTTP_REQUESTS.labels(request.method, route, status).inc()
    HTTP_DURATION.labels(route).observe(duration_s)
    correlation = request[CORRELATION]
    identity = request.get(IDENTITY)
    fields = {
        "request_id": correlation.request_id,
        "trace_id": correlation.trace_id,
        "method": request.method,
        "route": route,
        "path": request.raw_path.partition("?")[0][:MAX_LOGGED_PATH_CHARS],
        "status": status,
        "code": code,
        "duration_ms": round(duration_s * 1000, 3),
        "bytes_in": request.content.total_bytes,
        "bytes_out": response.content_length or 0 if response is not None else 0,
        "client_ip": client_ip_text(request),
        "user_id": str(identity.user_id) if identity is not None else None,
    }
    known = request.get(LOG_FIELDS)
    if known is not None:
        fields.update(known)
    log_request(fields)


def _status_of(response: web.StreamResponse | None, code: str | None) -> int:
    if response is not None:
        return response.status
    return CLIENT_CLOSED if code == "client_gone" else 500
