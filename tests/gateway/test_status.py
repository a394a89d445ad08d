"""GET /api/v1/proxy/status."""

from typing import Any

import aiohttp
import pytest

from tests.gateway.stack import ask, connect
from tests.support.inprocess import run_app
from tests.support.people import Person, gateway_headers
from zenzefi.access.token_format import mint
from zenzefi.context import open_context
from zenzefi.devstack.ports import find_free_port
from zenzefi.settings import Settings


@pytest.fixture
async def bought(person: Person) -> Any:
    await person.top_up("20.00")
    return await person.buy_token(12)


async def status_of(client: aiohttp.ClientSession, **headers: str) -> tuple[int, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.get("/api/v1/proxy/status", headers=named) as response:
        return response.status, await response.json(content_type=None)


async def test_a_new_token_is_ready(client: aiohttp.ClientSession, person: Person, bought: Any) -> None:
    assert await status_of(client, X_Access_Token=bought["token"]) == (
        200,
        {
            "connected": True,
            "user_id": person.user_id,
            "token_id": bought["id"],
            "status": "ready",
            "is_activated": False,
            "expires_at": None,
            "time_remaining_seconds": 12 * 3600,
            "duration_hours": 12,
            "scope": "full",
            "device": None,
            "holds_device": None,
        },
    )


async def test_a_token_in_use_tells_its_end_and_its_device(client: aiohttp.ClientSession, bought: Any) -> None:
    answer = await ask(client, bought["token"], device="device-of-mine-42a7")
    _, status = await status_of(client, X_Access_Token=bought["token"], X_Device_ID="device-of-mine-42a7")
    assert status["status"] == "active"
    assert status["is_activated"] is True
    assert status["expires_at"] == answer.headers["X-Token-Expires-At"]
    assert 12 * 3600 - 10 < status["time_remaining_seconds"] <= 12 * 3600
    assert (status["device"], status["holds_device"]) == ("…42a7", True)
    _, status = await status_of(client, X_Access_Token=bought["token"], X_Device_ID="another-device")
    assert (status["device"], status["holds_device"]) == ("…42a7", False)


async def test_asking_takes_no_lease(client: aiohttp.ClientSession, bought: Any) -> None:
    await status_of(client, X_Access_Token=bought["token"], X_Device_ID="device-0001")
    assert (await ask(client, bought["token"], device="device-0002")).status == 200


@pytest.mark.parametrize("token", [mint(b"\1" * 32), "znz_nothing", ""])
async def test_an_unusable_token_is_rejected(client: aiohttp.ClientSession, token: str) -> None:
    status, problem = await status_of(client, X_Access_Token=token)
    assert (status, problem["code"]) == (401, "token_rejected")


async def test_a_refunded_token_is_rejected(person: Person, client: aiohttp.ClientSession, bought: Any) -> None:
    assert (await status_of(client, X_Access_Token=bought["token"]))[0] == 200
    assert (await person.request("DELETE", f"/api/v1/tokens/{bought['id']}"))[0] == 200
    assert (await status_of(client, X_Access_Token=bought["token"]))[0] == 401


async def test_no_token_and_a_bad_device_are_refused(client: aiohttp.ClientSession, bought: Any) -> None:
    assert (await status_of(client))[0] == 401
    status, problem = await status_of(client, X_Access_Token=bought["token"], X_Device_ID="short")
    assert (status, problem["code"]) == (400, "bad_device_id")


async def test_asking_for_the_head_alone_starts_no_clock(client: aiohttp.ClientSession, bought: Any) -> None:
    async with client.head("/api/v1/proxy/status", headers=gateway_headers(bought["token"])) as response:
        assert (response.status, await response.read()) == (200, b"")
        assert "X-Token-Expires-At" not in response.headers
    _, status = await status_of(client, X_Access_Token=bought["token"])
    assert (status["is_activated"], status["device"]) == (False, None)


async def test_another_method_goes_to_the_upstream(client: aiohttp.ClientSession, bought: Any) -> None:
    headers = gateway_headers(bought["token"])
    async with client.post("/api/v1/proxy/status", headers=headers) as response:
        assert (response.status, (await response.json())["path"]) == (200, "/status")


async def test_without_redis_the_status_is_the_same(env: dict[str, str], person: Person, bought: Any) -> None:
    assert (await ask(person.client, bought["token"], device="device-of-mine-42a7")).status == 200
    _, with_redis = await status_of(person.client, X_Access_Token=bought["token"], X_Device_ID="device-of-mine-42a7")
    settings = Settings.from_env({**env, "REDIS_PORT": str(find_free_port())})
    async with open_context(settings) as ctx, run_app(ctx) as url, connect(url) as client:
        # The device's hint comes with the metered usage, a second later at most.
        _, without = await status_of(client, X_Access_Token=bought["token"], X_Device_ID="device-of-mine-42a7")
    for status in (with_redis, without):
        del status["time_remaining_seconds"], status["device"]
    assert without == with_redis
