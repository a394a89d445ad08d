"""Sessions of use, as the owner of a token sees them."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from tests.gateway.stack import ask, until
from tests.support.people import Person, register
from zenzefi.context import Context
from zenzefi.gateway.metering import Batch, _store
from zenzefi.gateway.models import Device, Outcome, SessionUse, Usage
from zenzefi.gateway.sessions import close_idle_sessions


@pytest.fixture
async def bought(person: Person) -> Any:
    await person.top_up("1.00")
    return await person.buy_token(1)


async def sessions_of(person: Person, token_id: str, query: str = "") -> Any:
    return await person.get(f"/api/v1/tokens/{token_id}/sessions{query}")


async def use(
    ctx: Context, bought: Any, *, minutes_ago: float, device: str = "device-0001", requests: int = 1
) -> Batch:
    """Store a use of a token as the metering would have done back then."""
    token_id, at = UUID(bought["id"]), ctx.now() - timedelta(minutes=minutes_ago)
    batch = Batch(
        meter_id=ctx.new_id(),
        batch_no=1,
        batch_id=ctx.new_id(),
        usage=[Usage(token_id=token_id, user_id=token_id, hour=at, outcome=Outcome.SERVED, requests=requests)],
        uses=[
            SessionUse(
                token_id=token_id,
                device=Device.of(device),
                ip=None,
                user_agent=None,
                first_at=at,
                last_at=at,
                requests=requests,
                bytes_in=10 * requests,
                bytes_out=100 * requests,
            )
        ],
    )
    await _store(ctx, batch)
    return batch


async def test_a_session_tells_who_used_a_token_and_how_much(
    client: aiohttp.ClientSession, person: Person, bought: Any
) -> None:
    sent = b"x" * 1234
    for _ in range(3):
        answer = await ask(client, bought["token"], "/upload", method="POST", data=sent, device="device-of-mine-42a7")
        assert answer.status == 200

    async def is_stored() -> bool:
        items = (await sessions_of(person, bought["id"]))["items"]
        return bool(items) and items[0]["request_count"] == 3

    await until(is_stored, timeout_s=30)
    [session] = (await sessions_of(person, bought["id"]))["items"]
    assert session["device"] == "…42a7"
    assert session["ip"] == "127.0.0.1"
    assert "aiohttp" in session["user_agent"]
    assert session["bytes_in"] == 3 * len(sent)
    assert session["bytes_out"] == 3 * len(answer.body)
    assert session["started_at"] <= session["last_activity"]
    assert session["ended_at"] is None


async def test_uses_less_than_five_minutes_apart_are_one_session(ctx: Context, person: Person, bought: Any) -> None:
    for minutes_ago in (30, 26, 21.1):
        await use(ctx, bought, minutes_ago=minutes_ago)
    [session] = (await sessions_of(person, bought["id"]))["items"]
    assert (session["request_count"], session["bytes_in"], session["bytes_out"]) == (3, 30, 300)


async def test_five_idle_minutes_end_a_session(ctx: Context, person: Person, bought: Any) -> None:
    for minutes_ago in (30, 24.9, 20):
        await use(ctx, bought, minutes_ago=minutes_ago)
    newest, older = (await sessions_of(person, bought["id"]))["items"]
    assert (newest["request_count"], newest["ended_at"]) == (2, None)
    assert (older["request_count"], older["ended_at"]) == (1, older["last_activity"])


async def test_two_devices_have_sessions_of_their_own(ctx: Context, person: Person, bought: Any) -> None:
    await use(ctx, bought, minutes_ago=3, device="device-0001")
    await use(ctx, bought, minutes_ago=2, device="device-0002")
    assert [item["device"] for item in (await sessions_of(person, bought["id"]))["items"]] == ["…0002", "…0001"]


async def test_a_batch_that_is_stored_twice_counts_once(ctx: Context, person: Person, bought: Any) -> None:
    batch = await use(ctx, bought, minutes_ago=1, requests=7)
    for _ in range(3):
        await _store(ctx, batch)
    [session] = (await sessions_of(person, bought["id"]))["items"]
    assert session["request_count"] == 7


async def test_many_processes_that_store_at_once_share_one_session(ctx: Context, person: Person, bought: Any) -> None:
    await asyncio.gather(*(use(ctx, bought, minutes_ago=0) for _ in range(40)))
    [session] = (await sessions_of(person, bought["id"]))["items"]
    assert session["request_count"] == 40


async def test_the_sweep_closes_idle_sessions_and_no_others(ctx: Context, person: Person, bought: Any) -> None:
    await use(ctx, bought, minutes_ago=5.1, device="device-0001")
    await use(ctx, bought, minutes_ago=4.9, device="device-0002")
    assert await close_idle_sessions(ctx) >= 1
    ended = {item["device"]: item["ended_at"] for item in (await sessions_of(person, bought["id"]))["items"]}
    assert ended["…0001"] is not None
    assert ended["…0002"] is None
    await close_idle_sessions(ctx)  # of other tests' sessions some may have become idle meanwhile
    again = {item["device"]: item["ended_at"] for item in (await sessions_of(person, bought["id"]))["items"]}
    assert again == ended


async def test_sessions_come_in_pages(ctx: Context, person: Person, bought: Any) -> None:
    for minutes_ago in range(70, 0, -10):
        await use(ctx, bought, minutes_ago=minutes_ago)
    seen: list[str] = []
    query = "?limit=3"
    while query:
        page = await sessions_of(person, bought["id"], query)
        seen += [item["started_at"] for item in page["items"]]
        query = f"?limit=3&cursor={page['next_cursor']}" if page["next_cursor"] else ""
    assert len(seen) == 7
    assert seen == sorted(seen, reverse=True)


async def test_sessions_are_for_the_owner_only(client: aiohttp.ClientSession, person: Person, bought: Any) -> None:
    path = f"/api/v1/tokens/{bought['id']}/sessions"
    somebody_else = await register(client)
    for status, body in (
        await somebody_else.request("GET", path),
        await person.request("GET", "/api/v1/tokens/not-an-id/sessions"),
        await person.request("GET", f"/api/v1/tokens/{UUID(int=7)}/sessions"),
    ):
        assert (status, body["code"]) == (404, "token_not_found")
    async with client.get(path) as response:
        assert response.status == 401
