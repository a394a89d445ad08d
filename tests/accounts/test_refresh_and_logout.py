"""POST /api/v1/auth/refresh and /auth/logout."""

import asyncio
from datetime import timedelta
from uuid import UUID

import aiohttp
import pytest

from tests.support.accounts import ban, claims_of, log_in, log_out, probe, refresh
from tests.support.people import Person
from zenzefi.context import Context

UNKNOWN = "znr_" + "A" * 43


async def reason_of_end(ctx: Context, access_token: str) -> list[str]:
    """The reasons that the audit log gives for the end of the token's login."""
    async with ctx.connection() as conn:
        rows = await conn.fetch(
            "SELECT after, actor_user_id FROM audit_log WHERE action = 'login.end' AND resource_id = $1",
            claims_of(access_token)["sid"],
        )
    assert all(str(row["actor_user_id"]) == claims_of(access_token)["sub"] for row in rows)
    return [row["after"]["reason"] for row in rows]


async def test_a_refresh_token_gives_a_new_pair_of_the_same_login(
    client: aiohttp.ClientSession, person: Person
) -> None:
    status, pair = await refresh(client, person.refresh_token)
    assert status == 200
    assert set(pair) == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert pair["refresh_token"] != person.refresh_token
    before, after = claims_of(person.access_token), claims_of(pair["access_token"])
    assert (after["sub"], after["sid"]) == (before["sub"], before["sid"])
    assert after["jti"] != before["jti"]
    assert await probe(client, pair["access_token"]) == 200
    assert (await refresh(client, pair["refresh_token"]))[0] == 200


async def test_a_refresh_token_that_comes_again_ends_its_login_and_no_other(
    client: aiohttp.ClientSession, ctx: Context, person: Person
) -> None:
    _, other = await log_in(client, person.email)
    _, pair = await refresh(client, person.refresh_token)
    _, pair = await refresh(client, pair["refresh_token"])
    status, problem = await refresh(client, person.refresh_token)
    assert (status, problem["code"]) == (401, "invalid_refresh_token")
    assert (await refresh(client, pair["refresh_token"]))[0] == 401
    assert await probe(client, pair["access_token"]) == 401  # in this process at once
    assert await reason_of_end(ctx, person.access_token) == ["refresh_token_reused"]
    assert await probe(client, other["access_token"]) == 200
    assert (await refresh(client, other["refresh_token"]))[0] == 200


async def test_of_twenty_refreshes_at_once_one_succeeds_at_most_and_the_login_ends(
    client: aiohttp.ClientSession, person: Person
) -> None:
    answers = await asyncio.gather(*(refresh(client, person.refresh_token) for _ in range(20)))
    pairs = [body for status, body in answers if status == 200]
    assert len(pairs) == 1
    assert sorted(status for status, _ in answers) == [200] + [401] * 19
    assert (await refresh(client, pairs[0]["refresh_token"]))[0] == 401
    assert await probe(client, pairs[0]["access_token"]) == 401


@pytest.mark.parametrize(
    "token", [UNKNOWN, "znr_", "x", "znr_" + "A" * 44, "znr_" + "é" * 43, UNKNOWN + "\n", "eyJhbGciOiJIUzI1NiJ9.e30.x"]
)
async def test_what_is_no_refresh_token_is_401_at_refresh_and_204_at_logout(
    client: aiohttp.ClientSession, token: str
) -> None:
    status, problem = await refresh(client, token)
    assert (status, problem["code"]) == (401, "invalid_refresh_token")
    assert await log_out(client, token) == (204, None)


async def test_an_expired_refresh_token_is_401(client: aiohttp.ClientSession, ctx: Context, person: Person) -> None:
    async with ctx.transaction() as conn:
        await conn.execute(
            "UPDATE refresh_tokens SET expires_at = $2 WHERE login_id = $1",
            UUID(claims_of(person.access_token)["sid"]),
            ctx.now() - timedelta(microseconds=1),
        )
    assert (await refresh(client, person.refresh_token))[0] == 401


async def test_a_refresh_token_lives_for_the_days_that_are_set(ctx: Context, person: Person) -> None:
    async with ctx.connection() as conn:
        lifetime = await conn.fetchval(
            "SELECT expires_at - created_at FROM refresh_tokens WHERE login_id = $1",
            UUID(claims_of(person.access_token)["sid"]),
        )
    assert lifetime == timedelta(days=ctx.settings.refresh_token_expire_days)


async def test_a_banned_user_cannot_refresh(client: aiohttp.ClientSession, ctx: Context, person: Person) -> None:
    await ban(ctx, person.user_id)
    assert (await refresh(client, person.refresh_token))[0] == 401


async def test_a_logout_ends_the_login_and_no_other(
    client: aiohttp.ClientSession, ctx: Context, person: Person
) -> None:
    _, other = await log_in(client, person.email)
    assert await probe(client, person.access_token) == 200
    assert await log_out(client, person.refresh_token) == (204, None)
    assert await probe(client, person.access_token) == 401  # in this process at once
    assert (await refresh(client, person.refresh_token))[0] == 401
    assert await probe(client, other["access_token"]) == 200
    assert await reason_of_end(ctx, person.access_token) == ["logout"]


async def test_a_logout_may_be_repeated(client: aiohttp.ClientSession, ctx: Context, person: Person) -> None:
    answers = await asyncio.gather(*(log_out(client, person.refresh_token) for _ in range(5)))
    assert answers == [(204, None)] * 5
    assert await reason_of_end(ctx, person.access_token) == ["logout"]


async def test_a_logout_with_a_spent_refresh_token_ends_the_login_too(
    client: aiohttp.ClientSession, person: Person
) -> None:
    _, pair = await refresh(client, person.refresh_token)
    assert await log_out(client, person.refresh_token) == (204, None)
    assert (await refresh(client, pair["refresh_token"]))[0] == 401
    assert await probe(client, pair["access_token"]) == 401


async def test_a_logout_that_races_a_refresh_leaves_nothing_usable(
    client: aiohttp.ClientSession, person: Person
) -> None:
    for _ in range(10):
        _, login = await log_in(client, person.email)
        (status, pair), _ = await asyncio.gather(
            refresh(client, login["refresh_token"]), log_out(client, login["refresh_token"])
        )
        if status == 200:
            assert (await refresh(client, pair["refresh_token"]))[0] == 401
            assert await probe(client, pair["access_token"]) == 401


async def test_requests_with_a_jwt_alone_do_not_log_out(client: aiohttp.ClientSession, person: Person) -> None:
    status, problem = await person.request("POST", "/api/v1/auth/logout", json={})
    assert status == 422
    assert list(problem["errors"]) == ["refresh_token"]
    assert await probe(client, person.access_token) == 200
