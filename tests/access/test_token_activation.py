"""The first use of a token starts its clock, once; its end is by the database's time."""

import asyncio
import os
import sys
from datetime import timedelta
from uuid import UUID

import pytest

from tests.access.tokens import audit_rows, expire, issue_token, owner, token_row
from zenzefi.access import service
from zenzefi.access.errors import TokenRejected
from zenzefi.access.models import AccessToken
from zenzefi.context import Context

PROCESSES = 4
FIRST_USES = 200


async def ban(ctx: Context, user_id: UUID, *, is_active: bool = False) -> None:
    async with ctx.transaction() as conn:
        await conn.execute("UPDATE users SET is_active = $2 WHERE id = $1", user_id, is_active)


async def test_activation_starts_the_clock(ctx: Context) -> None:
    token = (await issue_token(ctx, duration_hours=24, scope="certificates_only")).token
    found = await service.find_grant(ctx, token_hash=token.token_hash)
    assert found is not None
    assert (found.activated_at, found.expires_at) == (None, None)

    before = ctx.now()
    grant = await service.activate(ctx, token_id=token.token_id)
    assert grant.activated_at is not None
    assert before <= grant.activated_at <= ctx.now()
    assert grant.expires_at == grant.activated_at + timedelta(hours=24)
    assert (grant.token_id, grant.user_id, grant.token_hash) == (token.token_id, token.user_id, token.token_hash)
    assert (grant.duration_hours, grant.scope) == (24, "certificates_only")
    assert await service.find_grant(ctx, token_hash=token.token_hash) == grant


async def test_a_second_activation_finds_the_first(ctx: Context) -> None:
    token = (await issue_token(ctx)).token
    first = await service.activate(ctx, token_id=token.token_id)
    assert await service.activate(ctx, token_id=token.token_id) == first
    (row,) = await audit_rows(ctx, token.token_id, "token.activate")
    assert row["actor_user_id"] == token.user_id
    assert row["after"] == {"activated_at": str(first.activated_at), "expires_at": str(first.expires_at)}


async def test_the_audit_row_names_the_given_actor(ctx: Context) -> None:
    token = (await issue_token(ctx)).token
    await service.activate(ctx, token_id=token.token_id, actor=owner(token.user_id))
    (row,) = await audit_rows(ctx, token.token_id, "token.activate")
    assert (row["actor_kind"], row["actor_user_id"]) == ("user", token.user_id)


async def test_200_first_uses_in_4_processes_give_one_activation(ctx: Context, env: dict[str, str]) -> None:
    token = (await issue_token(ctx, duration_hours=720)).token
    command = [sys.executable, "-m", "tests.access.activating", str(token.token_id), str(FIRST_USES // PROCESSES)]
    processes = [
        await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **env}, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(PROCESSES)
    ]
    try:
        async with asyncio.timeout(60):
            for process in processes:
                assert process.stdout is not None
                assert await process.stdout.readline() == b"ready\n"
            outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert [process.returncode for process in processes] == [0] * PROCESSES
    answers = [line for output, _ in outputs for line in output.decode().splitlines()]
    assert len(answers) == FIRST_USES
    row = await token_row(ctx, token.token_id)
    assert set(answers) == {f"{row['activated_at']}|{row['expires_at']}"}
    assert row["expires_at"] == row["activated_at"] + timedelta(hours=720)
    assert len(await audit_rows(ctx, token.token_id, "token.activate")) == 1


async def expired_token(ctx: Context) -> AccessToken:
    token = (await issue_token(ctx)).token
    await service.activate(ctx, token_id=token.token_id)
    await expire(ctx, token.token_id)
    return token


async def test_an_expired_token_is_rejected_before_any_sweep(ctx: Context) -> None:
    token = await expired_token(ctx)
    assert await service.find_grant(ctx, token_hash=token.token_hash) is None
    with pytest.raises(TokenRejected):
        await service.activate(ctx, token_id=token.token_id)


async def test_an_unknown_token_is_rejected(ctx: Context) -> None:
    assert await service.find_grant(ctx, token_hash=bytes(32)) is None
    with pytest.raises(TokenRejected) as rejected:
        await service.activate(ctx, token_id=ctx.new_id())
    assert (rejected.value.status, rejected.value.code) == (401, "token_rejected")
    assert "X-Access-Token" in rejected.value.headers["WWW-Authenticate"]


async def test_a_banned_owners_token_is_rejected_and_its_clock_does_not_start(ctx: Context) -> None:
    token = (await issue_token(ctx)).token
    await ban(ctx, token.user_id)
    assert await service.find_grant(ctx, token_hash=token.token_hash) is None
    with pytest.raises(TokenRejected):
        await service.activate(ctx, token_id=token.token_id)
    assert (await token_row(ctx, token.token_id))["activated_at"] is None
    await ban(ctx, token.user_id, is_active=True)
    assert await service.find_grant(ctx, token_hash=token.token_hash) is not None


async def test_a_banned_owners_running_token_is_rejected(ctx: Context) -> None:
    token = (await issue_token(ctx)).token
    await service.activate(ctx, token_id=token.token_id)
    await ban(ctx, token.user_id)
    with pytest.raises(TokenRejected):
        await service.activate(ctx, token_id=token.token_id)


async def test_the_sweep_ends_expired_tokens_as_of_their_expiry_and_no_others(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "EXPIRY_BATCH", 2)
    await service.end_expired_tokens(ctx)
    expired = [await expired_token(ctx) for _ in range(5)]
    fresh = (await issue_token(ctx)).token
    running = (await issue_token(ctx)).token
    await service.activate(ctx, token_id=running.token_id)

    assert await service.end_expired_tokens(ctx) == 5
    assert await service.end_expired_tokens(ctx) == 0
    for token in expired:
        row = await token_row(ctx, token.token_id)
        assert (row["ended_at"], row["end_reason"]) == (row["expires_at"], "expired")
    for token in (fresh, running):
        assert (await token_row(ctx, token.token_id))["ended_at"] is None


async def test_parallel_sweeps_end_each_token_once(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "EXPIRY_BATCH", 3)
    await service.end_expired_tokens(ctx)
    for _ in range(10):
        await expired_token(ctx)
    counts = await asyncio.gather(*(service.end_expired_tokens(ctx) for _ in range(4)))
    # A sweep that finds rows locked by another leaves them to it, and to its own next run.
    assert sum(counts) + await service.end_expired_tokens(ctx) == 10
