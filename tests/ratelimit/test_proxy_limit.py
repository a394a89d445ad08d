"""The limit of proxied requests as a client meets it: two processes, one token."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from math import ceil
from typing import cast
from uuid import uuid4

import pytest
import redis as redis_py

from tests.gateway.stack import ask, buy, connect
from tests.support.patience import patient_clock
from tests.support.people import PASSWORD, gateway_headers
from tests.support.serving import serve
from zenzefi.accounts.service import create_superuser
from zenzefi.context import Context

LIMIT, WINDOW_S, LEASE_S = 45, 3, 0.15
STATUS = "/api/v1/proxy/status"


@pytest.fixture(scope="module")
async def url(env: dict[str, str]) -> AsyncIterator[str]:
    """Where two processes with this limit of the gateway are, and no other limit."""
    async with serve({**env, "RATE_LIMIT_PROXY": f"{LIMIT}/{WINDOW_S}"}, processes=2) as served:
        yield served.url


async def test_limit_is_given_in_full_refused_as_promised_and_outlives_a_rotation(url: str) -> None:
    async with connect(url) as client:
        person, _ = await buy(client)
        await person.top_up("5.00")
        bought = await person.buy_token(1)
        # One client, one request after the other: what is charged in advance is not lost to it.
        started = time.monotonic()
        answers = [await ask(client, bought["token"]) for _ in range(LIMIT)]
        assert Counter(answer.status for answer in answers) == {200: LIMIT}
        lefts = [int(answer.headers["RateLimit"].split(";")[1].removeprefix("r=")) for answer in answers]
        assert lefts == list(range(LIMIT - 1, -1, -1))
        assert {answer.headers["RateLimit-Policy"] for answer in answers} == {f'"proxy";q={LIMIT};w={WINDOW_S}'}
        refused = await ask(client, bought["token"])
        assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
        assert refused.headers["RateLimit"] == f'"proxy";r=0;t={refused.headers["Retry-After"]}'
        assert refused.headers["RateLimit-Policy"] == f'"proxy";q={LIMIT};w={WINDOW_S}'
        # A new string is no new limit, and the status counts, too.
        status, rotated = await person.request("POST", f"/api/v1/tokens/{bought['id']}/rotate")
        assert status == 200
        async with client.get(STATUS, headers=gateway_headers(rotated["token"])) as response:
            assert response.status == 429
            wait_s = int(response.headers["Retry-After"])
        left_s = started + WINDOW_S + LEASE_S - time.monotonic()
        assert ceil(left_s) <= wait_s <= WINDOW_S + 1
        # Asking all the time does not lengthen the wait.
        end = time.monotonic() + wait_s
        while True:
            answer = await ask(client, rotated["token"])
            if time.monotonic() >= started + WINDOW_S + LEASE_S:
                break
            assert answer.status == 429
        if answer.status == 429:  # else this one has had the only permit that is free for certain by then
            await asyncio.sleep(end - time.monotonic())
            answer = await ask(client, rotated["token"], "/status")
        assert answer.status == 200
        assert answer.headers["RateLimit-Policy"] == f'"proxy";q={LIMIT};w={WINDOW_S}'


async def test_two_processes_give_one_client_nearly_all_and_never_more(url: str) -> None:
    async with connect(url, fresh=True) as client:  # each connection may come to either process
        _, (token,) = await buy(client)
        served: list[tuple[float, float]] = []
        with patient_clock() as clock:
            started, end, sent = time.monotonic(), clock() + 2 * WINDOW_S, 0
            while clock() < end:
                asked_at = time.monotonic()
                if (await ask(client, token)).status == 200:
                    served.append((asked_at, time.monotonic()))
                sent += 1
                await asyncio.sleep(max(0.0, started + sent / (1.5 * LIMIT / WINDOW_S) - time.monotonic()))
    # Each was admitted between its request and its answer: no more than the limit were for certain in any window.
    for first, (asked_at, _) in enumerate(served):
        assert sum(answered_at < asked_at + WINDOW_S for _, answered_at in served[first:]) <= LIMIT
    # A steady client gets the limit's rate, less the lease by which each permit comes back later.
    assert len(served) >= 0.9 * 2 * LIMIT


async def test_refused_request_starts_no_clock_and_takes_no_lease(url: str) -> None:
    async with connect(url) as client:
        _, (token,) = await buy(client)
        async with client.get(STATUS, headers=gateway_headers(token)) as response:
            assert response.status == 200
        spent = [client.get(STATUS, headers=gateway_headers(token)) for _ in range(LIMIT)]
        for request in spent:
            async with request as response:
                last = response.status
        assert last == 429
        refused = await ask(client, token)
        assert refused.status == 429
        assert "X-Token-Expires-At" not in refused.headers
        await asyncio.sleep(int(refused.headers["Retry-After"]))
        async with client.get(STATUS, headers=gateway_headers(token)) as response:
            body = await response.json()
            assert (body["is_activated"], body["device"]) == (False, None)


def evaluations(client: "redis_py.Redis") -> int:
    """How many scripts have run."""
    found = cast("dict[str, dict[str, int]]", client.info("commandstats"))
    return sum(found[command]["calls"] for command in ("cmdstat_eval", "cmdstat_evalsha") if command in found)


@pytest.fixture(scope="module")
async def default_url(env: dict[str, str]) -> AsyncIterator[str]:
    """Two processes with the gateway's usual limit, and one of the API that superusers pass."""
    limits = {"RATE_LIMIT_API": "5/60", "RATE_LIMIT_PROXY": "1000/60"}
    async with serve({**env, **limits, "RATE_LIMIT_SUPERUSER_BYPASS": "true"}, processes=2) as served:
        yield served.url


async def test_load_costs_few_calls(default_url: str, ring_client: "redis_py.Redis") -> None:
    async with connect(default_url) as client:
        _, (token,) = await buy(client)
        await ask(client, token)
        before = evaluations(ring_client)
        for _ in range(20):
            answers = await asyncio.gather(*(ask(client, token) for _ in range(16)))
            assert {answer.status for answer in answers} == {200}
        assert evaluations(ring_client) - before < 0.2 * 320


async def test_superuser_passes_where_that_is_set_and_each_time_is_on_record(default_url: str, ctx: Context) -> None:
    name = f"admin-{uuid4().hex[:8]}"
    admin = await create_superuser(ctx, email=f"{name}@example.com", username=name, password=PASSWORD)
    async with connect(default_url) as client:
        account = {"email": admin.email, "password": PASSWORD}
        async with client.post("/api/v1/auth/login", json=account) as response:
            headers = {"Authorization": f"Bearer {(await response.json())['access_token']}"}
        for _ in range(8):
            async with client.get("/api/v1/currency/balance", headers=headers) as response:
                assert response.status == 200
    async with ctx.connection() as conn:
        rows = await conn.fetch(
            "SELECT resource_id FROM audit_log WHERE actor_user_id = $1 AND action = 'ratelimit.bypass'", admin.id
        )
    assert [row["resource_id"] for row in rows] == ["GET /api/v1/currency/balance"] * 3


async def test_forging_the_address_of_a_victim_locks_out_the_forger(env: dict[str, str]) -> None:
    guess = {"email": "nobody@example.com", "password": "wrong password"}
    statuses = []
    async with serve({**env, "RATE_LIMIT_AUTH": "5/3600"}, processes=2) as served, connect(served.url) as client:
        for number in range(6):
            forged = {"X-Forwarded-For": f"198.51.100.{number}", "Forwarded": f"for=198.51.100.{number}"}
            async with client.post("/api/v1/auth/login", json=guess, headers=forged) as response:
                statuses.append(response.status)
    # All came from one socket's address, which has no proxy's word for another.
    assert statuses[-1] == 429
