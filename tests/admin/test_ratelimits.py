"""A superuser sees and resets what a subject has used of its limit."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from uuid import uuid4

import aiohttp
import pytest

from tests.support.people import PASSWORD, Person, gateway_headers, register
from tests.support.serving import PATIENT, Served
from zenzefi.accounts.service import create_superuser
from zenzefi.context import Context

Serving = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
async def admin(ctx: Context) -> tuple[str, str]:
    """A superuser's address and password."""
    name = f"admin-{uuid4().hex[:8]}"
    await create_superuser(ctx, email=f"{name}@example.com", username=name, password=PASSWORD)
    return f"{name}@example.com", PASSWORD


@pytest.fixture
async def limited(serving: Serving) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of one process with small limits."""
    # One address signs in in all tests that have such a limit, and they share a Redis.
    limits = {**PATIENT, "RATE_LIMIT_AUTH": "10000/3600", "RATE_LIMIT_API": "8/60", "RATE_LIMIT_PROXY": "5/60"}
    async with serving(processes=1, **limits) as served, aiohttp.ClientSession(served.url) as client:
        yield client


async def signed_in(client: aiohttp.ClientSession, admin: tuple[str, str]) -> dict[str, str]:
    email, password = admin
    async with client.post("/api/v1/auth/login", json={"email": email, "password": password}) as response:
        assert response.status == 200
        return {"Authorization": f"Bearer {(await response.json())['access_token']}"}


async def test_user_is_let_in_again_after_a_reset(
    limited: aiohttp.ClientSession, admin: tuple[str, str], ctx: Context
) -> None:
    person = await register(limited)
    headers = await signed_in(limited, admin)
    for _ in range(8):
        await person.balance()
    assert (await person.request("GET", "/api/v1/currency/balance"))[0] == 429
    path = f"/api/v1/admin/ratelimits/api/{person.user_id}"
    async with limited.get(path, headers=headers) as response:
        assert await response.json() == {
            "class": "api",
            "subject": person.user_id,
            "limit": 8,
            "window": 60,
            "used": 8,
            "remaining": 0,
        }
    async with limited.delete(path, headers=headers) as response:
        assert response.status == 204
    assert (await person.request("GET", "/api/v1/currency/balance"))[0] == 200
    async with ctx.connection() as conn:
        rows = await conn.fetch("SELECT * FROM audit_log WHERE resource_id = $1", f"api/user:{person.user_id}")
    assert [(row["action"], row["before"]) for row in rows] == [("ratelimit.reset", {"used": 8})]


async def test_token_is_found_by_its_id(limited: aiohttp.ClientSession, admin: tuple[str, str]) -> None:
    person = await register(limited)
    headers = await signed_in(limited, admin)
    await person.top_up("10.00")
    token = await person.buy_token(1)
    for _ in range(3):
        async with limited.get("/api/v1/proxy/hello", headers=gateway_headers(token["token"])) as response:
            assert response.status == 200
    async with limited.get(f"/api/v1/admin/ratelimits/proxy/{token['id']}", headers=headers) as response:
        body = await response.json()
    # A process charges some permits in advance, but never more than a part of what is left.
    assert 3 <= body["used"] <= 4


@pytest.mark.parametrize(
    "path",
    ["api/not-a-uuid", "nothing/1", "proxy/01a20744-bba4-7616-92b1-39e11f124e09", "auth/not-an-address"],
)
async def test_unknown_subjects_and_classes_are_not_found(
    limited: aiohttp.ClientSession, admin: tuple[str, str], path: str
) -> None:
    headers = await signed_in(limited, admin)
    for method in ("GET", "DELETE"):
        async with limited.request(method, f"/api/v1/admin/ratelimits/{path}", headers=headers) as response:
            assert response.status == 404


async def test_only_superusers_may(limited: aiohttp.ClientSession) -> None:
    person: Person = await register(limited)
    status, body = await person.request("DELETE", f"/api/v1/admin/ratelimits/api/{person.user_id}")
    assert (status, body["code"]) == (403, "forbidden")
