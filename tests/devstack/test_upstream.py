"""The demo upstream does what its list of endpoints says."""

import gzip
import hashlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from yarl import URL

from zenzefi.devstack.upstream import run_upstream


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a running demo upstream that sees bodies as they were sent."""
    async with (
        run_upstream() as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}", auto_decompress=False) as session,
    ):
        yield session


async def test_a_request_is_echoed_as_it_arrived(client: aiohttp.ClientSession) -> None:
    url = URL("/a%2Fb//c?x=1&x=%20", encoded=True)
    async with client.patch(url, data=b"body", headers=[("X-Twice", "1"), ("X-Twice", "2")]) as response:
        seen = await response.json()
    assert (seen["method"], seen["path"], seen["query"]) == ("PATCH", "/a%2Fb//c", "x=1&x=%20")
    assert [value for name, value in seen["headers"] if name == "X-Twice"] == ["1", "2"]
    assert seen["body"] == {"bytes": 4, "sha256": hashlib.sha256(b"body").hexdigest()}


async def test_an_upload_is_measured_without_being_inflated(client: aiohttp.ClientSession) -> None:
    body = gzip.compress(b"a" * 100_000)
    async with client.post("/upload", data=body, headers={"Content-Encoding": "gzip"}) as response:
        assert await response.json() == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


@pytest.mark.parametrize("query", ["", "&chunked=1"])
async def test_a_download_has_the_size_asked_for(client: aiohttp.ClientSession, query: str) -> None:
    async with client.get(f"/big?bytes=200001{query}") as response:
        assert (response.content_length is None) == bool(query)
        assert len(await response.read()) == 200_001
    async with client.head("/big?bytes=200001") as response:
        assert response.content_length == 200_001


async def test_events_come_one_by_one(client: aiohttp.ClientSession) -> None:
    async with client.get("/events?count=3&interval=0.01") as response:
        assert response.content_type == "text/event-stream"
        text = await response.text()
    assert [line for line in text.splitlines() if line.startswith("id:")] == ["id: 1", "id: 2", "id: 3"]


async def test_a_websocket_sends_back_what_it_gets(client: aiohttp.ClientSession) -> None:
    async with client.ws_connect("/ws") as websocket:
        await websocket.send_str("text")
        assert await websocket.receive_str() == "text"
        await websocket.send_bytes(b"\x00\xff")
        assert await websocket.receive_bytes() == b"\x00\xff"


async def test_headers_that_gateways_get_wrong(client: aiohttp.ClientSession) -> None:
    async with client.get("/cookies") as response:
        assert len(response.headers.getall("Set-Cookie")) == 2
    async with client.get("/etag") as response:
        etag = response.headers["ETag"]
    async with client.get("/etag", headers={"If-None-Match": etag}) as response:
        assert (response.status, response.headers["ETag"], await response.read()) == (304, etag, b"")
    async with client.get("/gzip") as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert b'"compressed": true' in gzip.decompress(await response.read())
    async with client.get("/redirect", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, "/")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/certificates/filter", 200),
        ("/status/204", 204),
        ("/status/503", 503),
        ("/slow?seconds=0.01", 200),
        ("/slow?seconds=nan", 400),
        ("/slow?seconds=-1", 400),
        ("/big?bytes=many", 400),
        ("/big?bytes=1e300", 400),
    ],
)
async def test_statuses(client: aiohttp.ClientSession, path: str, status: int) -> None:
    async with client.get(path) as response:
        assert response.status == status
