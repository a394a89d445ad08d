"""What is done with a token here is felt at the gateway, in every process, within a second."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.support.people import Person, gateway_headers, register
from tests.support.serving import serve
from zenzefi.infra.redis import plain_client
from zenzefi.settings import Settings

STATUS = "/api/v1/proxy/status"
ANYTHING = "/api/v1/proxy/anything"
DEADLINE_S = 1.0
# So many requests on connections of their own meet each of two processes for sure: all in one is a chance of 2**-39.
EVERYWHERE = 40


@pytest.fixture(scope="module")
async def buyer(env: dict[str, str]) -> AsyncIterator[Person]:
    """Somebody with money, whose requests are spread over two processes."""
    connections = aiohttp.TCPConnector(limit=0, force_close=True)
    async with serve(env, processes=2) as served, aiohttp.ClientSession(served.url, connector=connections) as client:
        person = await register(client)
        await person.top_up("100.00")
        yield person


async def statuses(buyer: Person, path: str, token: str, device: str = "device-0001") -> set[int]:
    """The answers of all processes."""

    async def one() -> int:
        async with buyer.client.get(path, headers=gateway_headers(token, device)) as response:
            await response.read()
            return response.status

    return set(await asyncio.gather(*(one() for _ in range(EVERYWHERE))))


async def until_everywhere(buyer: Person, expected: int, path: str, token: str, device: str = "device-0001") -> None:
    """Return once all processes give this answer; fail if requests that begin after the deadline get another one."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + DEADLINE_S
    while True:
        is_last = clock() >= deadline
        seen = await statuses(buyer, path, token, device)
        if seen == {expected}:
            return
        assert not is_last, f"after {DEADLINE_S} s the answers are still {seen}, not {expected}"


async def test_a_rotated_string_dies_and_the_new_one_lives(buyer: Person) -> None:
    bought = await buyer.buy_token(1)
    assert await statuses(buyer, STATUS, bought["token"]) == {200}
    _, rotated = await buyer.request("POST", f"/api/v1/tokens/{bought['id']}/rotate")
    await until_everywhere(buyer, 401, STATUS, bought["token"])
    assert await statuses(buyer, STATUS, rotated["token"]) == {200}


async def test_a_refunded_token_dies(buyer: Person) -> None:
    bought = await buyer.buy_token(1)
    assert await statuses(buyer, STATUS, bought["token"]) == {200}
    assert (await buyer.request("DELETE", f"/api/v1/tokens/{bought['id']}"))[0] == 200
    await until_everywhere(buyer, 401, STATUS, bought["token"])


async def test_a_token_used_at_the_gateway_is_not_refunded(buyer: Person) -> None:
    bought = await buyer.buy_token(1)
    assert await statuses(buyer, ANYTHING, bought["token"]) == {200}
    status, problem = await buyer.request("DELETE", f"/api/v1/tokens/{bought['id']}")
    assert (status, problem["code"]) == (409, "token_activated")


async def test_another_device_is_served_after_a_release(buyer: Person) -> None:
    bought = await buyer.buy_token(1)
    assert await statuses(buyer, ANYTHING, bought["token"], "device-one") == {200}
    assert await statuses(buyer, ANYTHING, bought["token"], "device-two") == {409}
    assert (await buyer.request("POST", f"/api/v1/tokens/{bought['id']}/release-device"))[0] == 200
    await until_everywhere(buyer, 200, ANYTHING, bought["token"], "device-two")
    assert await statuses(buyer, ANYTHING, bought["token"], "device-one") == {409}


async def test_another_device_is_served_after_a_rotation(buyer: Person) -> None:
    bought = await buyer.buy_token(1)
    assert await statuses(buyer, ANYTHING, bought["token"], "device-one") == {200}
    _, rotated = await buyer.request("POST", f"/api/v1/tokens/{bought['id']}/rotate")
    await until_everywhere(buyer, 200, ANYTHING, rotated["token"], "device-two")
    await until_everywhere(buyer, 401, ANYTHING, bought["token"], "device-one")


async def test_a_revocation_outlives_a_short_absence_of_redis(buyer: Person, settings: Settings) -> None:
    bought = await buyer.buy_token(1)
    assert await statuses(buyer, STATUS, bought["token"]) == {200}
    redis = plain_client(settings)
    try:
        # Shorter than the tests' deadline for Redis: the announcement waits for its answer, and so does who revokes.
        await redis.client_pause(300)  # all=True is the default: reads wait, too
        assert (await buyer.request("DELETE", f"/api/v1/tokens/{bought['id']}"))[0] == 200
        await until_everywhere(buyer, 401, STATUS, bought["token"])
    finally:
        await redis.aclose()
