"""What every request passes: its id, its one log line, its errors as problem documents, and the check of who asks."""

import os
import re
import time

import structlog
from aiohttp import ServerDisconnectedError, web
from aiohttp.http import SERVER_SOFTWARE
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestPayloadError

from zenzefi.errors import BadRequest, ZenzefiError
from zenzefi.infra.instruments import HTTP_DURATION, HTTP_REQUESTS
from zenzefi.infra.logging import log_request
from zenzefi.web.addresses import client_ip, is_from_trusted_proxy
from zenzefi.web.auth import authenticate, is_public
from zenzefi.web.keys import IDENTITY, LOG_FIELDS, RATE_LIMIT, REQUEST_ID
from zenzefi.web.problem import error_response, http_exception_response, status_response
from zenzefi.web.validation import validate

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
)
HSTS = "max-age=63072000; includeSubDomains"

log = structlog.get_logger(__name__)


@web.middleware
async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id, turn its error into a problem document, and write its log line."""
    started = time.perf_counter()
    request_id = _request_id(request)
    request[REQUEST_ID] = request_id
    status = 500
    try:
        response = await handler(request)
        status = response.status
        return response
    except ZenzefiError as error:
        status = error.status
        if status >= 500:
            log.warning("request_refused", request_id=request_id, code=error.code, cause=_name_cause(error.__cause__))
        return error_response(error, request_id)
    except web.HTTPException as error:
        status = error.status
        return http_exception_response(error, request_id)
    except RequestPayloadError:
        status = 400
        return error_response(BadRequest("The body's framing is broken."), request_id)
    except Exception as error:
        if isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
            status = 499  # nginx's number for a client that went away: nobody is left to answer
            raise
        log.exception("request_failed", request_id=request_id)
        return status_response(
            500, "Something went wrong on our side. Give us the request_id if it happens again.", request_id
        )
    finally:
        _take_note(request, status, time.perf_counter() - started)


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
    headers["X-Request-ID"] = request.get(REQUEST_ID) or _request_id(request)
    for name, value in SECURITY_HEADERS:
        headers[name] = value
    for name, value in request.get(RATE_LIMIT, ()):
        headers[name] = value
    if is_from_trusted_proxy(request) and request.headers.get("X-Forwarded-Proto") == "https":
        headers["Strict-Transport-Security"] = HSTS
    if headers.get("Server") == SERVER_SOFTWARE:
        del headers["Server"]


def _request_id(request: web.BaseRequest) -> str:
    """The client's own id where it is one that is safe to repeat, else a new one."""
    given = request.headers.get("X-Request-ID")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return os.urandom(16).hex()


def _name_cause(cause: BaseException | None) -> str:
    # The text of these two repeats what a peer sent, cookies included.
    return type(cause).__name__ if isinstance(cause, HttpProcessingError | ServerDisconnectedError) else repr(cause)


def _take_note(request: web.Request, status: int, duration_s: float) -> None:
    """Count the request and write its line."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else None
    HTTP_REQUESTS.labels(request.method, route, status).inc()
    HTTP_DURATION.labels(route).observe(duration_s)
    identity = request.get(IDENTITY)
    fields = {
        "request_id": request[REQUEST_ID],
        "method": request.method,
        "route": route,
        "status": status,
        "duration_ms": round(duration_s * 1000, 3),
        "client_ip": str(client_ip(request)),
        "user_id": str(identity.user_id) if identity is not None else None,
    }
    fields.update(request.get(LOG_FIELDS, {}))
    log_request(fields)
