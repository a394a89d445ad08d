"""The device lease: one device at a time, until five minutes after its last request."""

import asyncio
import hashlib
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from tests.gateway.stack import ask, until
from tests.support.patience import patient_clock
from tests.support.people import Person, gateway_headers
from zenzefi.access.revocation import lease_key
from zenzefi.context import Context
from zenzefi.gateway.models import Device
from zenzefi.gateway.tokens import CACHE_S


@pytest.fixture
async def bought(person: Person) -> Any:
    await person.top_up("2.00")
    return await person.buy_token(1)


@pytest.fixture
def token(bought: Any) -> str:
    string: str = bought["token"]
    return string


def hash_of(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def end_lease(ctx: Context, token: str, token_id: str) -> None:
    """Let the lease be over, as it is after five minutes without a request."""
    await ctx.redis.run("DEL", lease_key(hash_of(token)))
    await set_lease_end(ctx, token_id, after_s=-1)


async def is_metered(ctx: Context, token_id: str) -> bool:
    """Whether PostgreSQL has heard of a use of the token; its copy of the lease is renewed a moment later."""
    async with ctx.connection() as conn:
        return bool(
            await conn.fetchval("SELECT count(*) FROM gateway_sessions WHERE token_id = $1::text::uuid", token_id)
        )


async def set_lease_end(ctx: Context, token_id: str, *, after_s: float) -> None:
    async with ctx.transaction() as conn:
        await conn.execute(
            "UPDATE device_leases SET expires_at = $2 WHERE token_id = $1::text::uuid",
            token_id,
            ctx.clock.after(timedelta(seconds=after_s)),
        )


async def test_a_second_device_is_refused_and_told_how_long(client: aiohttp.ClientSession, token: str) -> None:
    assert (await ask(client, token, device="device-0001")).status == 200
    answer = await ask(client, token, device="device-0002")
    assert (answer.status, answer.code) == (409, "device_conflict")
    assert 200 <= int(answer.headers["Retry-After"]) <= 300


async def test_each_request_makes_the_lease_last_longer(
    client: aiohttp.ClientSession, ctx: Context, token: str
) -> None:
    assert (await ask(client, token)).status == 200
    await ctx.redis.run("PEXPIRE", lease_key(hash_of(token)), 10_000)
    await asyncio.sleep(CACHE_S + 0.05)
    assert int((await ask(client, token, device="device-0002")).headers["Retry-After"]) <= 10
    assert (await ask(client, token)).status == 200
    assert int((await ask(client, token, device="device-0002")).headers["Retry-After"]) >= 200


async def test_another_device_may_take_a_token_that_was_left_alone(
    client: aiohttp.ClientSession, ctx: Context, bought: Any, token: str
) -> None:
    assert (await ask(client, token, device="device-0001")).status == 200
    await asyncio.sleep(CACHE_S + 0.05)  # until the process has forgotten the device
    await until(lambda: is_metered(ctx, bought["id"]), timeout_s=30)

    async def is_taken_over() -> bool:
        await end_lease(ctx, token, bought["id"])  # again, where the metering of the first request renewed it since
        return (await ask(client, token, device="device-0002")).status == 200

    await until(is_taken_over, timeout_s=30)
    answer = await ask(client, token, device="device-0001")
    assert (answer.status, answer.code) == (409, "device_conflict")


async def test_a_redis_that_lost_a_lease_gives_no_token_away(
    client: aiohttp.ClientSession, ctx: Context, token: str
) -> None:
    assert (await ask(client, token, device="device-0001")).status == 200
    await ctx.redis.run("DEL", lease_key(hash_of(token)))
    assert (await ask(client, token, device="device-0002")).status == 409
    assert (await ask(client, token, device="device-0001")).status == 200


async def test_the_copy_of_the_lease_in_postgresql_follows_the_requests(
    client: aiohttp.ClientSession, ctx: Context, bought: Any, token: str
) -> None:
    assert (await ask(client, token)).status == 200
    await set_lease_end(ctx, bought["id"], after_s=10)
    assert (await ask(client, token)).status == 200
    await until(lambda: is_renewed(ctx, bought["id"]), timeout_s=30)  # it comes with the metered usage


async def is_renewed(ctx: Context, token_id: str) -> bool:
    async with ctx.connection() as conn:
        expires_at = await conn.fetchval(
            "SELECT expires_at FROM device_leases WHERE token_id = $1::text::uuid", token_id
        )
    return bool((expires_at - ctx.now()).total_seconds() >= 200)


async def test_a_released_token_goes_to_the_next_device_and_the_old_streams_end(
    person: Person, client: aiohttp.ClientSession, bought: Any, token: str
) -> None:
    path = "/api/v1/proxy/events?count=1000&interval=0.05"
    async with client.get(path, headers=gateway_headers(token, "device-0001")) as response:
        await response.content.readany()
        status, _ = await person.request("POST", f"/api/v1/tokens/{bought['id']}/release-device")
        assert status == 200
        with patient_clock() as clock:
            released_at = clock()
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
            assert clock() - released_at < 1
    assert (await ask(client, token, device="device-0002")).status == 200
    assert (await ask(client, token, device="device-0001")).status == 409


async def test_tokens_of_one_person_work_on_different_devices(person: Person, token: str) -> None:
    other = (await person.buy_token(1))["token"]
    assert (await ask(person.client, token, device="device-0001")).status == 200
    assert (await ask(person.client, other, device="device-0002")).status == 200
    assert (await ask(person.client, other, device="device-0001")).status == 409


def test_a_device_is_remembered_by_its_hash_and_its_end() -> None:
    device = Device.of("laptop-of-alice-7f3a")
    assert device.hint == "…7f3a"
    assert device.device_hash == hashlib.sha256(b"laptop-of-alice-7f3a").digest()
    assert "alice" not in repr(device)
