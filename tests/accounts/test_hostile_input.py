"""Whatever a client sends to the account routes, the answer is one of the contract's and never a 500."""

import asyncio
import json
from collections.abc import Iterator

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.people import Person

POSTS = ("register", "login", "refresh", "logout")
FIELDS = ("email", "username", "password", "full_name", "refresh_token", "current_password")


def bodies() -> Iterator[bytes]:
    """Bodies that are no JSON object, or hold what no field takes."""
    yield from (
        b"",
        b" ",
        b"{",
        b"null",
        b"[]",
        b"1",
        b'"x"',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"{}{}",
        b"\0",
        b"{'a':1}",
    )
    yield from (b'{"email":NaN}', b'{"email":Infinity}', b'{"email":1e400}', b'{"email":' + b"9" * 5000 + b"}")
    for depth in (200, 450, 900, 5_000, 30_000):
        yield b'{"email":' + b"[" * depth + b"]" * depth + b"}"
        yield b'{"email":' * (depth // 9) + b"1" + b"}" * (depth // 9)
    yield b'{"email":"a@example.com","email":"b@example.com","password":"correct horse"}'
    values: tuple[object, ...] = (
        "\0",
        "a\0b",
        "\ud800",
        "x" * 60_000,
        "🔑" * 10_000,
        True,
        -1,
        1.5,
        [],
        {},
        [["x"]],
        {"$gt": ""},
        None,
    )
    for value in (*values, "'; DROP TABLE users; --", "%00", "\u202e", "﷽" * 200, "\x7f", "\r\nX-Evil: 1"):
        yield json.dumps(dict.fromkeys(FIELDS, value)).encode()
        for field in FIELDS:
            yield json.dumps({field: value, "email": "a@example.com"} | {field: value}).encode()
    yield json.dumps({"\0": 1, "\ud800": 2, "__class__": 3}).encode()
    yield b'{"' + b"x" * 60_000 + b'":1}'


def assert_refused(status: int, text: str, body: bytes) -> None:
    assert status in (400, 401, 413, 415, 422), (status, body[:200], text)
    problem = json.loads(text)
    assert problem["status"] == status
    assert problem["code"]


async def post(client: aiohttp.ClientSession, route: str, body: bytes) -> tuple[int, str]:
    headers = {"Content-Type": "application/json"}
    async with client.post(f"/api/v1/auth/{route}", data=body, headers=headers) as response:
        return response.status, await response.text()


@pytest.mark.parametrize("route", POSTS)
async def test_bodies_that_no_schema_takes_are_refused(client: aiohttp.ClientSession, route: str) -> None:
    for body in bodies():
        assert_refused(*await post(client, route, body), body)


async def test_changes_that_no_schema_takes_are_refused(client: aiohttp.ClientSession, person: Person) -> None:
    headers = person.headers | {"Content-Type": "application/json"}
    for body in bodies():
        async with client.patch("/api/v1/users/me", data=body, headers=headers) as response:
            text = await response.text()
            assert response.status == 422 or 400 <= response.status < 416, (response.status, body[:200], text)


async def test_a_body_that_is_too_large_is_413(client: aiohttp.ClientSession) -> None:
    body = json.dumps({"email": "x" * 70_000}).encode()
    for route in POSTS:
        status, text = await post(client, route, body)
        assert (status, json.loads(text)["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", None])
async def test_a_body_of_another_type_is_415(client: aiohttp.ClientSession, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    for route in POSTS:
        async with client.post(
            f"/api/v1/auth/{route}", data=b"{}", headers=headers, skip_auto_headers=("Content-Type",)
        ) as response:
            assert response.status == 415


@pytest.mark.parametrize("agent", [b"\xff\xfe\x80", b"x" * 4000, "Ünï☃".encode(), b"\xed\xa0\x80"])
async def test_an_odd_user_agent_does_no_harm(app_url: str, person: Person, agent: bytes) -> None:
    # aiohttp's client would not send such bytes.
    host, port = app_url.removeprefix("http://").split(":")
    body = json.dumps({"email": person.email, "password": person.password}).encode()
    assert b" 200 " in await exchange(host, int(port), agent, body)


async def exchange(host: str, port: int, agent: bytes, body: bytes) -> bytes:
    """The status line of a login with these bytes as its User-Agent."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(
        b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nUser-Agent: %s\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (agent, len(body), body)
    )
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return line


TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=300)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(body=st.dictionaries(st.sampled_from(FIELDS) | TEXT, VALUES, max_size=5), route=st.sampled_from(POSTS))
async def test_any_json_object_is_answered(client: aiohttp.ClientSession, body: dict[str, object], route: str) -> None:
    status, text = await post(client, route, json.dumps(body).encode())
    assert status in (201, 204, 400, 401, 409, 422), (status, text)
