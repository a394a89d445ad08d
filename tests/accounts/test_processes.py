"""Accounts over several processes: races that the database decides, and endings that all learn of within 1 s."""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import aiohttp
import pytest

from tests.support.accounts import ban, log_in, log_out, post, probe, refresh
from tests.support.people import PASSWORD, Person, register
from tests.support.serving import Served, serve
from zenzefi.context import Context

PROCESSES = 3
NEW_PASSWORD = "another battery staple"


@pytest.fixture(scope="module")
async def served(env: dict[str, str]) -> AsyncIterator[Served]:
    """The product as several processes."""
    async with serve(env, processes=PROCESSES) as running:
        yield running


@pytest.fixture(scope="module")
async def clients(served: Served) -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose every request comes on a new connection, so that any process may get it."""
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(served.url, connector=connector) as client:
        yield client


async def probe_all(client: aiohttp.ClientSession, access_token: str) -> set[int]:
    """The statuses of so many requests at once that every process gets some."""
    return set(await asyncio.gather(*(probe(client, access_token) for _ in range(12 * PROCESSES))))


async def assert_ended_within_a_second(client: aiohttp.ClientSession, access_tokens: list[str]) -> None:
    """Until the second is over some may still be served; after it nobody is."""
    known_at = time.monotonic()
    await asyncio.sleep(0.3)  # in the midst of it every process is asked, which must not make it remember for longer
    for token in access_tokens:
        assert await probe_all(client, token) <= {200, 401}
    await asyncio.sleep(max(0.0, known_at + 1.0 - time.monotonic()))
    for token in access_tokens:
        assert await probe_all(client, token) == {401}


async def test_of_twenty_registrations_at_once_one_makes_the_account(clients: aiohttp.ClientSession) -> None:
    name = f"race-{uuid4().hex[:12]}"
    bodies = [
        {"email": f"{name}@example.com", "username": f"{name}-{number}", "password": PASSWORD} for number in range(20)
    ]
    answers = await asyncio.gather(*(post(clients, "register", body) for body in bodies))
    assert sorted(status for status, _ in answers) == [201] + [409] * 19
    assert {body["code"] for status, body in answers if status == 409} == {"email_taken"}


async def test_of_twenty_refreshes_at_once_one_succeeds_and_the_login_ends(clients: aiohttp.ClientSession) -> None:
    person = await register(clients)
    answers = await asyncio.gather(*(refresh(clients, person.refresh_token) for _ in range(20)))
    pairs = [body for status, body in answers if status == 200]
    assert sorted(status for status, _ in answers) == [200] + [401] * 19
    assert (await refresh(clients, pairs[0]["refresh_token"]))[0] == 401
    await assert_ended_within_a_second(clients, [pairs[0]["access_token"]])


async def test_a_new_password_ends_other_logins_in_every_process_within_a_second(
    clients: aiohttp.ClientSession,
) -> None:
    person = await register(clients)
    others = [(await log_in(clients, person.email))[1]["access_token"] for _ in range(2)]
    for token in (person.access_token, *others):
        assert await probe_all(clients, token) == {200}
    body = {"password": NEW_PASSWORD, "current_password": PASSWORD}
    status, _ = await person.request("PATCH", "/api/v1/users/me", json=body)
    assert status == 200
    await assert_ended_within_a_second(clients, others)
    assert await probe_all(clients, person.access_token) == {200}


async def test_a_logout_ends_the_login_in_every_process_within_a_second(clients: aiohttp.ClientSession) -> None:
    person = await register(clients)
    assert await probe_all(clients, person.access_token) == {200}
    assert await log_out(clients, person.refresh_token) == (204, None)
    await assert_ended_within_a_second(clients, [person.access_token])


async def test_a_ban_shuts_out_in_every_process_within_a_second(clients: aiohttp.ClientSession, ctx: Context) -> None:
    person: Person = await register(clients)
    assert await probe_all(clients, person.access_token) == {200}
    await ban(ctx, person.user_id)
    await assert_ended_within_a_second(clients, [person.access_token])


async def test_the_log_holds_neither_addresses_nor_secrets(served: Served, clients: aiohttp.ClientSession) -> None:
    person = await register(clients)
    await log_in(clients, person.email, "not my password")
    await post(clients, "register", {"email": person.email, "username": person.username, "password": PASSWORD})
    await person.request("PATCH", "/api/v1/users/me", json={"password": NEW_PASSWORD, "current_password": PASSWORD})
    _, pair = await refresh(clients, person.refresh_token)
    await refresh(clients, person.refresh_token)
    async with asyncio.timeout(30):
        while person.user_id not in served.log:  # noqa: ASYNC110  lines of requests are written a little later
            await asyncio.sleep(0.02)
    secrets = (person.email, PASSWORD, NEW_PASSWORD, person.access_token, person.refresh_token, pair["refresh_token"])
    assert [secret for secret in (*secrets, "not my password") if secret in served.log] == []
