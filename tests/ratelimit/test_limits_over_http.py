"""The limits as a client meets them."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from tests.support.people import PASSWORD, register
from tests.support.serving import serve
from zenzefi.accounts.service import create_superuser
from zenzefi.context import Context

LOGIN = "/api/v1/auth/login"
WINDOW_S, LEASE_S = 3, 0.15


@pytest.fixture(scope="module")
def limits() -> dict[str, str]:
    """Small limits; the proxies' addresses make a client of each X-Forwarded-For."""
    return {
        "RATE_LIMIT_AUTH": "5/3600",
        "RATE_LIMIT_API": f"10/{WINDOW_S}",
        "TRUSTED_PROXIES": "127.0.0.1/32",
    }


@pytest.fixture(scope="module")
async def limited_url(env: dict[str, str], limits: dict[str, str]) -> AsyncIterator[str]:
    """Where two processes with these limits are."""
    async with serve({**env, **limits}, processes=2) as served:
        yield served.url


@pytest.fixture
async def limited(limited_url: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of theirs."""
    async with aiohttp.ClientSession(limited_url) as client:
        yield client


def from_address(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}


def from_new_network() -> dict[str, str]:
    """As from a network of IPv6 that no test has come from; of 65,536 two would be the same now and then."""
    digits = uuid4().hex
    return from_address(f"2001:db8:{digits[:4]}:{digits[4:8]}::1")


async def log_in(client: aiohttp.ClientSession, email: str, password: str, address: str) -> tuple[int, Any, Any]:
    body = {"email": email, "password": password}
    async with client.post(LOGIN, json=body, headers=from_address(address)) as response:
        return response.status, await response.json(content_type=None), response.headers


async def test_sixth_sign_in_from_one_address_is_refused_before_any_password_is_hashed(
    limited: aiohttp.ClientSession,
) -> None:
    address = "198.51.100.7"
    for left in (4, 3, 2, 1, 0):
        status, _, headers = await log_in(limited, f"{uuid4()}@example.com", "wrong password", address)
        assert status == 401
        assert headers["RateLimit"].startswith(f'"auth";r={left};t=')
        assert headers["RateLimit-Policy"] == '"auth";q=5;w=3600'
    status, body, headers = await log_in(limited, f"{uuid4()}@example.com", "wrong password", address)
    assert (status, body["code"]) == (429, "rate_limit_exceeded")
    assert body["detail"] == "Rate limit exceeded. Max 5 requests per 3600 s"
    assert (body["limit"], body["window"]) == (5, 3600)
    assert 3500 < int(headers["Retry-After"]) == body["retry_after"] <= 3601
    # The same network of IPv6 is one client; a forged entry further left is nobody's address.
    for host in ("2001:db8::1", "2001:db8::2", "2001:db8::ffff", "6.6.6.6, 2001:db8::3", "2001:db8::4"):
        assert (await log_in(limited, f"{uuid4()}@example.com", "wrong password", host))[0] == 401
    assert (await log_in(limited, f"{uuid4()}@example.com", "wrong password", "2001:db8::5"))[0] == 429
    assert (await log_in(limited, f"{uuid4()}@example.com", "wrong password", "2001:db8:0:1::1"))[0] == 401


async def test_guessing_from_many_addresses_is_slowed_per_account(limited: aiohttp.ClientSession) -> None:
    name = f"victim-{uuid4().hex[:8]}"
    account = {"email": f"{name}@example.com", "username": name, "password": PASSWORD}
    async with limited.post("/api/v1/auth/register", json=account, headers=from_address("192.0.2.1")) as response:
        assert response.status == 201
    # Signing in with the right password costs the account nothing.
    for number in range(7):
        assert (await log_in(limited, account["email"], PASSWORD, f"192.0.2.{10 + number}"))[0] == 200
    guesses = await asyncio.gather(
        *(log_in(limited, account["email"].upper(), f"guess {number}", f"203.0.113.{number}") for number in range(100))
    )
    statuses = sorted(status for status, _, _ in guesses)
    assert statuses == [401] * 5 + [429] * 95


async def test_api_is_limited_by_user_and_a_retry_after_retry_after_succeeds(limited: aiohttp.ClientSession) -> None:
    limited.headers.update(from_new_network())
    person, other = await register(limited), await register(limited)
    free_at = time.monotonic() + WINDOW_S + LEASE_S  # the first one is charged after this moment
    answers = await asyncio.gather(*(person.request("GET", "/api/v1/currency/balance") for _ in range(30)))
    assert sorted(status for status, _ in answers) == [200] * 10 + [429] * 20
    assert (await other.request("GET", "/api/v1/currency/balance"))[0] == 200
    wait_s = max(body["retry_after"] for status, body in answers if status == 429)
    # Asking again all the time does not lengthen the wait.
    end = time.monotonic() + wait_s
    while True:
        status, _ = await person.request("GET", "/api/v1/currency/balance")
        if time.monotonic() >= free_at:
            break
        assert status == 429
        await asyncio.sleep(0.02)
    if status == 429:  # else this one has had the only permit that is free for certain by then
        await asyncio.sleep(end - time.monotonic())
        status, _ = await person.request("GET", "/api/v1/currency/balance")
    assert status == 200


async def test_superuser_is_limited_like_everybody_unless_set_otherwise(
    limited: aiohttp.ClientSession, ctx: Context
) -> None:
    name = f"admin-{uuid4().hex[:8]}"
    await create_superuser(ctx, email=f"{name}@example.com", username=name, password=PASSWORD)
    _, tokens, _ = await log_in(limited, f"{name}@example.com", PASSWORD, "192.0.2.250")
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    statuses = []
    for _ in range(12):
        async with limited.get("/api/v1/currency/balance", headers=headers) as response:
            statuses.append(response.status)
    assert statuses == [200] * 10 + [429] * 2


async def test_refresh_is_charged_to_its_user(limited: aiohttp.ClientSession) -> None:
    limited.headers.update(from_new_network())
    person = await register(limited)
    for _ in range(10):
        assert (await person.request("GET", "/api/v1/currency/balance"))[0] == 200
    async with limited.post("/api/v1/auth/refresh", json={"refresh_token": person.refresh_token}) as response:
        assert response.status == 429
        wait_s = int(response.headers["Retry-After"])
    await asyncio.sleep(wait_s)
    async with limited.post("/api/v1/auth/refresh", json={"refresh_token": person.refresh_token}) as response:
        assert response.status == 200, "a refused refresh does not spend its token"
