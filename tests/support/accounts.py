"""What tests do with accounts, step by step; `tests.support.people` has whole people."""

import asyncio
from typing import Any
from uuid import UUID

import aiohttp
import jwt

from tests.support.people import PASSWORD
from zenzefi.context import Context

Answer = tuple[int, Any]


async def post(client: aiohttp.ClientSession, path: str, body: object) -> Answer:
    """Status and JSON body of a POST without a JWT."""
    async with client.post(f"/api/v1/auth/{path}", json=body) as response:
        return response.status, await response.json(content_type=None) if response.status != 204 else None


async def log_in(client: aiohttp.ClientSession, email: str, password: str = PASSWORD) -> Answer:
    """Try to sign in."""
    return await post(client, "login", {"email": email, "password": password})


async def refresh(client: aiohttp.ClientSession, refresh_token: str) -> Answer:
    """Try to spend a refresh token."""
    return await post(client, "refresh", {"refresh_token": refresh_token})


async def log_out(client: aiohttp.ClientSession, refresh_token: str) -> Answer:
    """Sign out."""
    return await post(client, "logout", {"refresh_token": refresh_token})


async def probe(client: aiohttp.ClientSession, access_token: str) -> int:
    """The status that the API answers to an access token."""
    async with client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {access_token}"}) as response:
        await response.read()
        return response.status


def claims_of(access_token: str) -> dict[str, Any]:
    """What a JWT says, its signature unchecked."""
    claims: dict[str, Any] = jwt.decode(access_token, options={"verify_signature": False})
    return claims


async def ban(ctx: Context, user_id: str) -> None:
    """Ban a user behind the application's back, as another process would."""
    async with ctx.transaction() as conn:
        await conn.execute("UPDATE users SET is_active = false WHERE id = $1", UUID(user_id))


async def wait_until_blocked(ctx: Context, task: "asyncio.Task[Any]") -> None:
    """Wait until the task waits for a lock of the database; it fails when the task ends instead."""
    async with asyncio.timeout(30), ctx.connection() as conn:
        while not await conn.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            assert not task.done(), f"it waited for no lock: {task.result()}"
            await asyncio.sleep(0.005)
