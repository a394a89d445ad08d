"""Which of S3's requests is meant, for the proxy of faults."""

from collections.abc import Callable
from typing import TypeAlias

from aiohttp import web

Matcher: TypeAlias = Callable[[web.Request], bool]


def part(number: int | None = None) -> Matcher:
    """Sending one part, or any."""

    def matches(request: web.Request) -> bool:
        sent = request.query.get("partNumber")
        return request.method == "PUT" and sent is not None and number in (None, int(sent))

    return matches


def completion(request: web.Request) -> bool:
    """Completing an upload."""
    return request.method == "POST" and "uploadId" in request.query


def manifest_put(request: web.Request) -> bool:
    """Writing a manifest."""
    return request.method == "PUT" and "/manifests/" in request.path


def conditional(request: web.Request) -> bool:
    """Writing under a condition."""
    return request.method == "PUT" and ("If-None-Match" in request.headers or "If-Match" in request.headers)


def data_get(request: web.Request) -> bool:
    """Reading a dump."""
    return request.method == "GET" and "/data/" in request.path
