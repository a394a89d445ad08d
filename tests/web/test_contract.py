"""What holds for every error and every route."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from openapi_spec_validator import validate

from tests.support.people import Person
from zenzefi import app as application
from zenzefi.errors import ZenzefiError
from zenzefi.web.auth import is_public


def _errors(base: type[ZenzefiError] = ZenzefiError) -> Iterator[type[ZenzefiError]]:
    for error in base.__subclasses__():
        yield error
        yield from _errors(error)


def test_every_error_has_a_title_and_a_code_of_its_own() -> None:
    assert application.ROUTES, "importing the application is what defines the errors"
    codes: dict[str, type[ZenzefiError]] = {}
    for error in set(_errors()):  # one may have two bases
        assert error.__doc__, error
        assert not error.title().endswith("."), error
        assert 400 <= error.status < 600, error
        if "code" in vars(error):
            assert error.code not in codes, (error, codes.get(error.code))
            codes[error.code] = error


PUBLIC = {
    ("POST", "/api/v1/auth/register"),
    ("POST", "/api/v1/auth/login"),
    ("POST", "/api/v1/auth/refresh"),
    ("POST", "/api/v1/auth/logout"),
    ("GET", "/api/v1/bundles"),
    ("GET", "/api/v1/bundles/{bundle_id}"),
    ("GET", "/api/v1/proxy/status"),
    ("*", "/api/v1/proxy/{path:.*}"),
    ("GET", "/health"),
    ("POST", "/api/v1/webhooks/payments/{provider}"),
}


def test_only_the_routes_that_must_be_public_are() -> None:
    found = {(route.method, route.path) for route in application.ROUTES if is_public(route.handler)}
    assert found == PUBLIC


async def test_routes_without_a_login_are_refused(client: aiohttp.ClientSession) -> None:
    for route in application.ROUTES:
        if is_public(route.handler):
            continue
        path = re.sub(r"{\w+}", "0193-x", route.path)
        for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic YTpi"}):
            async with client.request(route.method, path, headers=headers) as response:
                body = await response.json(content_type="application/problem+json")
                assert (response.status, body["code"]) == (401, "unauthenticated"), route.path
                assert response.headers["WWW-Authenticate"].startswith("Bearer")


async def test_unknown_path_and_method_are_problems(client: aiohttp.ClientSession) -> None:
    async with client.get("/api/v1/nothing") as response:
        assert response.status == 404
        assert (await response.json(content_type="application/problem+json"))["code"] == "not_found"
    async with client.put("/api/v1/currency/balance") as response:
        assert response.status == 405
        assert "GET" in response.headers["Allow"]
        assert (await response.json(content_type="application/problem+json"))["code"] == "method_not_allowed"


async def test_request_id_is_kept_when_it_is_safe_and_made_anew_when_not(client: aiohttp.ClientSession) -> None:
    async with client.get("/health", headers={"X-Request-ID": "abc-123_X.y"}) as response:
        assert response.headers["X-Request-ID"] == "abc-123_X.y"
    for unsafe in ("a b", "x" * 129, "", '"><script>'):
        async with client.get("/nothing", headers={"X-Request-ID": unsafe}) as response:
            body = await response.json(content_type=None)
            assert response.headers["X-Request-ID"] == body["request_id"] != unsafe


async def test_every_response_carries_the_security_headers(client: aiohttp.ClientSession) -> None:
    for path in ("/health", "/nothing", "/api/v1/currency/balance", "/docs"):
        async with client.get(path) as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["X-Frame-Options"] == "DENY"
            assert response.headers["Referrer-Policy"] == "no-referrer"
            assert "Server" not in response.headers
            assert "Strict-Transport-Security" not in response.headers


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", "application/json", 400, "invalid_json"),
        (b"{", "application/json", 400, "invalid_json"),
        (b"[]", "application/json", 400, "invalid_json"),
        (b"\xff", "application/json", 400, "invalid_json"),
        (b'{"email": NaN}', "application/json", 422, "invalid"),
        (b'{"email": "a", "email": "b"}', "application/json", 400, "invalid_json"),
        (b"[" * 30_000, "application/json", 400, "invalid_json"),
        (b'{"a":' * 10_000, "application/json", 400, "invalid_json"),
        (b'{"a": ' + b"9" * 5000 + b"}", "application/json", 400, "invalid_json"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"email=a", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b'{"email": "a\\u0000b", "password": "x"}', "application/json", 422, "invalid"),
        (b'{"email": "\\ud800", "password": "x"}', "application/json", 422, "invalid"),
        (b'{"\\ud800": 1}', "application/json", 422, "invalid"),
        (
            b'{"email": "a@example.com", "password": "12345678", "is_superuser": true}',
            "application/json",
            422,
            "invalid",
        ),
        (b'{"x":"' + b"y" * 70_000 + b'"}', "application/json", 413, "body_too_large"),
    ],
)
async def test_bad_bodies_are_refused_clearly(
    client: aiohttp.ClientSession, body: bytes, content_type: str, status: int, code: str
) -> None:
    async with client.post("/api/v1/auth/login", data=body, headers={"Content-Type": content_type}) as response:
        problem = await response.json(content_type="application/problem+json")
        assert (response.status, problem["code"]) == (status, code), problem
        assert problem["status"] == status


async def test_chunked_body_over_the_limit_is_refused(client: aiohttp.ClientSession) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 8192
            await asyncio.sleep(0)

    headers = {"Content-Type": "application/json"}
    async with client.post("/api/v1/auth/login", data=chunks(), headers=headers) as response:
        assert response.status == 413


async def test_pages_refuse_bad_cursors_and_limits(person: Person) -> None:
    for query in (
        "limit=0",
        "limit=101",
        "limit=x",
        "limit=1.0",
        "cursor=%00",
        "cursor=!!",
        "cursor=bnVsbA",
        "limit=1&limit=2",
    ):
        status, body = await person.request("GET", f"/api/v1/currency/transactions?{query}")
        assert status == 422, (query, body)
    status, _ = await person.request(
        "GET", "/api/v1/currency/transactions?cursor=MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw"
    )
    assert status == 422


async def test_openapi_document_is_valid_and_names_every_route(client: aiohttp.ClientSession) -> None:
    async with client.get("/openapi.json") as response:
        document = await response.json()
    validate(document)
    described = set(document["paths"])
    for route in application.ROUTES:
        assert route.path.replace(":.*", "") in described, route.path


async def test_docs_pages_load_nothing_from_elsewhere(client: aiohttp.ClientSession) -> None:
    for path in ("/docs", "/redoc"):
        async with client.get(path) as response:
            page = await response.text()
            assert response.status == 200
            assert "http://" not in page
            assert "https://" not in page
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js", "start.js"):
        async with client.get(f"/docs/static/{asset}") as response:
            assert response.status == 200
    async with client.get("/docs/static/..%2fdocs.py") as response:
        assert response.status == 404
