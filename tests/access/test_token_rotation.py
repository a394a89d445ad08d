"""Replacing a token's string, and freeing its device."""

import asyncio
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from tests.access.tokens import audit_rows, expire, token_row
from tests.support.people import Person
from zenzefi.access import service
from zenzefi.access.token_format import hash_token, is_well_formed
from zenzefi.context import Context


async def hold_device(ctx: Context, token_id: str) -> None:
    """What the gateway writes down while Redis is away."""
    async with ctx.transaction() as conn:
        await conn.execute(
            "INSERT INTO device_leases (token_id, device_hash, expires_at) VALUES ($1, $2, $3)",
            UUID(token_id),
            bytes(32),
            ctx.now() + timedelta(minutes=5),
        )


async def count_leases(ctx: Context, token_id: str) -> int:
    async with ctx.connection() as conn:
        count: int = await conn.fetchval("SELECT count(*) FROM device_leases WHERE token_id = $1", UUID(token_id))
    return count


async def test_a_rotated_token_has_a_new_string_and_is_otherwise_the_same(ctx: Context, person: Person) -> None:
    await person.top_up("18.00")
    bought = await person.buy_token(24)
    status, rotated = await person.request("POST", f"/api/v1/tokens/{bought['id']}/rotate")
    assert status == 200
    assert is_well_formed(rotated["token"])
    assert rotated["token"] != bought["token"]
    assert rotated["token_hint"] == rotated["token"][:8]
    assert {**rotated, "token": "", "token_hint": ""} == {**bought, "token": "", "token_hint": ""}
    assert await person.balance() == "0.00"
    assert await service.find_grant(ctx, token_hash=hash_token(bought["token"])) is None
    grant = await service.find_grant(ctx, token_hash=hash_token(rotated["token"]))
    assert grant is not None
    assert str(grant.token_id) == bought["id"]
    assert await service.find_token_hash(ctx, token_id=UUID(bought["id"])) == hash_token(rotated["token"])
    assert await service.find_token_hash(ctx, token_id=ctx.new_id()) is None
    assert (await token_row(ctx, bought["id"]))["rotated_at"] is not None


async def test_rotation_lets_the_clock_run_on(ctx: Context, person: Person) -> None:
    await person.top_up("18.00")
    bought = await person.buy_token(24)
    grant = await service.activate(ctx, token_id=UUID(bought["id"]))
    _, rotated = await person.request("POST", f"/api/v1/tokens/{bought['id']}/rotate")
    assert datetime.fromisoformat(rotated["activated_at"]) == grant.activated_at
    assert datetime.fromisoformat(rotated["expires_at"]) == grant.expires_at


async def test_rotation_frees_the_device(ctx: Context, person: Person) -> None:
    await person.top_up("1.00")
    bought = await person.buy_token(1)
    await hold_device(ctx, bought["id"])
    await person.request("POST", f"/api/v1/tokens/{bought['id']}/rotate")
    assert await count_leases(ctx, bought["id"]) == 0


async def test_rotation_is_audited_by_the_hints_alone(ctx: Context, person: Person) -> None:
    await person.top_up("1.00")
    bought = await person.buy_token(1)
    _, rotated = await person.request("POST", f"/api/v1/tokens/{bought['id']}/rotate")
    (row,) = await audit_rows(ctx, bought["id"], "token.rotate")
    assert row["before"] == {"token_hint": bought["token_hint"]}
    assert row["after"] == {"token_hint": rotated["token_hint"]}


async def test_of_parallel_rotations_one_string_survives(ctx: Context, person: Person) -> None:
    await person.top_up("1.00")
    bought = await person.buy_token(1)
    answers = await asyncio.gather(
        *(person.request("POST", f"/api/v1/tokens/{bought['id']}/rotate") for _ in range(10))
    )
    assert {status for status, _ in answers} == {200}
    hashes = [hash_token(answer["token"]) for _, answer in answers]
    assert len(set(hashes)) == 10
    alive = [value for value in hashes if await service.find_grant(ctx, token_hash=value) is not None]
    assert alive == [(await token_row(ctx, bought["id"]))["token_hash"]]


@pytest.mark.parametrize("action", ["rotate", "release-device"])
@pytest.mark.parametrize(("end", "detail"), [("refund", "The token was refunded."), ("time", "The token has expired.")])
async def test_nothing_is_done_with_a_token_that_has_ended(
    ctx: Context, person: Person, action: str, end: str, detail: str
) -> None:
    await person.top_up("1.00")
    token_id = (await person.buy_token(1))["id"]
    if end == "refund":
        await person.request("DELETE", f"/api/v1/tokens/{token_id}")
    else:
        await service.activate(ctx, token_id=UUID(token_id))
        await expire(ctx, UUID(token_id))
    status, problem = await person.request("POST", f"/api/v1/tokens/{token_id}/{action}")
    assert (status, problem["code"], problem["detail"]) == (409, "token_ended", detail)


async def test_a_device_is_released_once_per_hour(ctx: Context, person: Person) -> None:
    await person.top_up("1.00")
    token_id = (await person.buy_token(1))["id"]
    await hold_device(ctx, token_id)
    path = f"/api/v1/tokens/{token_id}/release-device"
    status, released = await person.request("POST", path)
    assert (status, released["released"]) == (200, True)
    assert await count_leases(ctx, token_id) == 0
    next_release_at = datetime.fromisoformat(released["next_release_at"])
    assert timedelta(minutes=59) < next_release_at - ctx.now() <= timedelta(hours=1)

    async with person.client.post(path, headers=person.headers) as response:
        problem = await response.json(content_type="application/problem+json")
        assert (response.status, problem["code"]) == (429, "device_release_too_soon")
        assert 3540 <= int(response.headers["Retry-After"]) == problem["retry_after"] <= 3600

    async with ctx.transaction() as conn:
        await conn.execute(
            "UPDATE access_tokens SET device_released_at = $2 WHERE id = $1",
            UUID(token_id),
            ctx.now() - timedelta(hours=1),
        )
    assert (await person.request("POST", path))[0] == 200
    assert len(await audit_rows(ctx, token_id, "token.release_device")) == 2


async def test_of_parallel_releases_one_succeeds(person: Person) -> None:
    await person.top_up("1.00")
    path = f"/api/v1/tokens/{(await person.buy_token(1))['id']}/release-device"
    answers = await asyncio.gather(*(person.request("POST", path) for _ in range(10)))
    assert sorted(status for status, _ in answers) == [200] + [429] * 9
