"""The data path through the front door: a bought token, the whole application, the demo upstream behind it."""

import gzip
import hashlib
import io
import json
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.support.people import Person, gateway_headers

PROXY = "/api/v1/proxy"


@pytest.fixture
async def headers(person: Person) -> dict[str, str]:
    """What a request with a token of the person's own carries."""
    await person.top_up("1.00")
    return gateway_headers((await person.buy_token(1))["token"])


async def echo(
    client: aiohttp.ClientSession, headers: dict[str, str], path: str = "/echo", **options: Any
) -> dict[str, Any]:
    """What the upstream saw of a request."""
    async with client.post(f"{PROXY}{path}", headers=headers, **options) as response:
        assert response.status == 200, await response.text()
        seen: dict[str, Any] = await response.json()
        return seen


async def test_the_upstream_learns_who_asks_but_not_the_credentials(
    client: aiohttp.ClientSession, app_url: str, person: Person, headers: dict[str, str]
) -> None:
    forged = {"X-User-Id": "somebody-else", "X-Forwarded-For": "1.1.1.1", "Authorization": "Bearer x", "Cookie": "a=1"}
    seen = await echo(client, {**headers, **forged, "X-Request-ID": "my-own-id"})
    fields = dict(seen["headers"])
    assert len(fields) == len(seen["headers"])
    assert fields["X-User-Id"] == person.user_id
    assert fields["X-Token-Id"]
    assert fields["X-Forwarded-For"] == "127.0.0.1"
    assert fields["X-Forwarded-Host"] == app_url.removeprefix("http://")
    assert fields["X-Forwarded-Proto"] == "http"
    assert fields["X-Request-ID"] == "my-own-id"
    assert fields["Cookie"] == "a=1"
    assert not {"X-Access-Token", "X-Device-ID", "Authorization"} & set(fields)
    assert headers["X-Access-Token"] not in json.dumps(seen)


async def test_the_body_and_the_query_arrive_as_they_were_sent(app_url: str, headers: dict[str, str]) -> None:
    body = bytes(range(256)) * 40_000
    url = URL(f"{app_url}{PROXY}/a/%7eb/?q=%2F%2e+x", encoded=True)
    async with aiohttp.ClientSession() as client, client.post(url, headers=headers, data=io.BytesIO(body)) as response:
        seen = await response.json()
    assert (seen["method"], seen["path"], seen["query"]) == ("POST", "/a/~b/", "q=%2F%2e+x")
    assert seen["body"] == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


async def test_answers_carry_the_expiry_the_request_id_and_the_security_headers(
    client: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    async with client.get(f"{PROXY}/cookies", headers=headers) as response:
        assert response.headers.getall("Set-Cookie") == [
            "session=abc123; Path=/; HttpOnly",
            "theme=dark; Path=/; Max-Age=3600",
        ]
        for name in ("X-Token-Expires-At", "X-Request-ID", "X-Content-Type-Options", "X-Frame-Options"):
            assert len(response.headers.getall(name)) == 1


async def test_head_304_and_redirects_pass_unchanged(client: aiohttp.ClientSession, headers: dict[str, str]) -> None:
    async with client.head(f"{PROXY}/big?bytes=12345", headers=headers) as response:
        assert (response.status, response.headers["Content-Length"]) == (200, "12345")
    async with client.get(f"{PROXY}/etag", headers={**headers, "If-None-Match": '"zenzefi-demo-1"'}) as response:
        assert (response.status, response.headers["ETag"]) == (304, '"zenzefi-demo-1"')
    async with client.get(f"{PROXY}/redirect", headers=headers, allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, "/")


async def test_compressed_answers_pass_as_they_are(app_url: str, headers: dict[str, str]) -> None:
    async with (
        aiohttp.ClientSession(app_url, auto_decompress=False) as client,
        client.get(f"{PROXY}/gzip", headers=headers) as response,
    ):
        assert response.headers["Content-Encoding"] == "gzip"
        packed = await response.read()
        assert response.headers["Content-Length"] == str(len(packed))
        assert json.loads(gzip.decompress(packed))["compressed"] is True


@pytest.mark.parametrize("framing", ["", "&chunked=1"])
async def test_large_answers_stream(client: aiohttp.ClientSession, headers: dict[str, str], framing: str) -> None:
    size = 32 * 1024 * 1024
    received = 0
    async with client.get(f"{PROXY}/big?bytes={size}{framing}", headers=headers) as response:
        assert ("Content-Length" in response.headers) is (framing == "")
        async for chunk in response.content.iter_any():
            received += len(chunk)
    assert received == size


async def test_events_stream(client: aiohttp.ClientSession, headers: dict[str, str]) -> None:
    async with client.get(f"{PROXY}/events?count=3&interval=0.05", headers=headers) as response:
        assert response.content_type == "text/event-stream"
        events = [await response.content.readuntil(b"\n\n") for _ in range(3)]
        assert [event.split(b"\n")[0] for event in events] == [b"id: 1", b"id: 2", b"id: 3"]
        assert await response.content.read() == b""


async def test_websockets_are_tunnelled(client: aiohttp.ClientSession, headers: dict[str, str]) -> None:
    async with client.ws_connect(f"{PROXY}/ws", headers=headers, protocols=["echo"], compress=15) as connection:
        assert (connection.protocol, connection.compress) == ("echo", 15)
        for number in range(20):
            await connection.send_str(f"message {number}")
            assert await connection.receive_str() == f"message {number}"
