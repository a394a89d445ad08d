"""Problem documents (RFC 9457): what a client sees of any error."""

from http import HTTPStatus

from aiohttp import web

from zenzefi.errors import JsonObject, ZenzefiError
from zenzefi.web.responses import encode_json

CONTENT_TYPE = "application/problem+json"
_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    411: "length_required",
    413: "body_too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
    417: "expectation_failed",
    426: "upgrade_required",
    431: "headers_too_large",
    500: "internal_error",
    501: "not_implemented",
}


def problem_document(*, status: int, title: str, code: str, detail: str, request_id: str, extra: JsonObject) -> str:
    """The document's JSON text."""
    return encode_json(
        {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": detail,
            "code": code,
            "request_id": request_id,
            **extra,
        }
    )


def error_response(error: ZenzefiError, request_id: str) -> web.Response:
    """The response for one of our errors."""
    return web.Response(
        text=problem_document(
            status=error.status,
            title=error.title(),
            code=error.code,
            detail=error.detail or error.title(),
            request_id=request_id,
            extra=error.extra,
        ),
        status=error.status,
        headers=error.headers,
        content_type=CONTENT_TYPE,
    )


def http_exception_response(error: web.HTTPException, request_id: str) -> web.Response:
    """The response for an error of aiohttp's own: a route that is not there, a method that is not allowed."""
    details = {
        404: "There is no such page. The API is described at /docs where that is enabled.",
        413: "The body is larger than this route takes.",
    }
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    if "Location" in error.headers:
        headers["Location"] = error.headers["Location"]
    return status_response(error.status, details.get(error.status, ""), request_id, headers)


def code_of(status: int) -> str:
    """The code of an error of which no more is known than its status."""
    return _CODES.get(status, f"http_{status}")


def status_response(status: int, detail: str, request_id: str, headers: dict[str, str] | None = None) -> web.Response:
    """The response for a bare status."""
    title = HTTPStatus(status).phrase
    return web.Response(
        text=problem_document(
            status=status,
            title=title,
            code=code_of(status),
            detail=detail or title,
            request_id=request_id,
            extra={},
        ),
        status=status,
        headers=headers,
        content_type=CONTENT_TYPE,
    )
