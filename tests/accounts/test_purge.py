"""accounts.service.purge_expired_logins: what the worker runs."""

import asyncio
from datetime import timedelta
from uuid import UUID

import aiohttp
import pytest

from tests.support.accounts import claims_of, log_in, refresh, wait_until_blocked
from tests.support.people import Person
from zenzefi.accounts import login_queries, logins, service
from zenzefi.context import Context


@pytest.fixture(autouse=True)
async def _nothing_left_by_others(ctx: Context) -> None:
    """Other tests let refresh tokens expire, too; what is counted here is this test's own."""
    await service.purge_expired_logins(ctx)


async def expire_refresh_tokens(ctx: Context, login_id: UUID) -> None:
    async with ctx.transaction() as conn:
        await conn.execute(
            "UPDATE refresh_tokens SET expires_at = $2 WHERE login_id = $1", login_id, ctx.now() - timedelta(seconds=1)
        )


async def add_expired_refresh_tokens(ctx: Context, login_id: UUID, count: int) -> None:
    async with ctx.transaction() as conn:
        await conn.execute(
            """
            INSERT INTO refresh_tokens (token_hash, login_id, created_at, expires_at)
            SELECT sha256(convert_to($1::uuid || ':' || n, 'UTF8')), $1, $2, $2 FROM generate_series(1, $3) AS n
            """,
            login_id,
            ctx.now() - timedelta(days=1),
            count,
        )


async def rows_of(ctx: Context, login_id: UUID) -> tuple[int, int]:
    """How many rows a login has in logins and in refresh_tokens."""
    async with ctx.connection() as conn:
        return (
            await conn.fetchval("SELECT count(*) FROM logins WHERE id = $1", login_id),
            await conn.fetchval("SELECT count(*) FROM refresh_tokens WHERE login_id = $1", login_id),
        )


def login_of(access_token: str) -> UUID:
    return UUID(claims_of(access_token)["sid"])


async def test_a_login_goes_when_its_last_refresh_token_has_expired(
    client: aiohttp.ClientSession, ctx: Context, person: Person
) -> None:
    _, login = await log_in(client, person.email)
    expired, kept = login_of(login["access_token"]), login_of(person.access_token)
    await expire_refresh_tokens(ctx, expired)
    assert await service.purge_expired_logins(ctx) == 1
    assert await rows_of(ctx, expired) == (0, 0)
    assert await rows_of(ctx, kept) == (1, 1)
    assert await service.purge_expired_logins(ctx) == 0


async def test_a_login_that_goes_on_loses_only_the_tokens_that_expired(
    client: aiohttp.ClientSession, ctx: Context, person: Person
) -> None:
    login_id = login_of(person.access_token)
    await add_expired_refresh_tokens(ctx, login_id, 3)
    assert await rows_of(ctx, login_id) == (1, 4)
    assert await service.purge_expired_logins(ctx) == 0
    assert await rows_of(ctx, login_id) == (1, 1)
    assert (await refresh(client, person.refresh_token))[0] == 200


async def test_purges_at_the_same_time_leave_no_login_behind(ctx: Context, person: Person) -> None:
    """Each of the two deletes a token that the other still sees."""
    login_id = login_of(person.access_token)
    await add_expired_refresh_tokens(ctx, login_id, 1)
    await expire_refresh_tokens(ctx, login_id)
    async with ctx.transaction() as conn:
        found = await login_queries.delete_expired_refresh_tokens(conn, expired_before=ctx.now(), limit=1)
        assert found == [login_id]
        await login_queries.lock_logins(conn, login_ids=found)
        purge = asyncio.create_task(service.purge_expired_logins(ctx))
        await wait_until_blocked(ctx, purge)
        assert await login_queries.delete_spent_logins(conn, login_ids=found) == 0
    assert await purge == 1
    assert await rows_of(ctx, login_id) == (0, 0)


async def test_one_run_is_bounded(ctx: Context, person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "PURGE_BATCH", 2)
    monkeypatch.setattr(logins, "PURGE_MAX_BATCHES", 3)
    login_id = login_of(person.access_token)
    await add_expired_refresh_tokens(ctx, login_id, 10)
    await service.purge_expired_logins(ctx)
    assert await rows_of(ctx, login_id) == (1, 5)
    monkeypatch.undo()
    await service.purge_expired_logins(ctx)
