"""Looking at one's own tokens, and at nobody else's."""

from uuid import UUID

import aiohttp
import pytest

from tests.access.tokens import expire
from tests.support.people import Person, register
from zenzefi.access import service
from zenzefi.context import Context

MY_TOKENS = "/api/v1/tokens/my-tokens"
FIELDS = {
    "id",
    "token_hint",
    "duration_hours",
    "scope",
    "cost_znc",
    "created_at",
    "activated_at",
    "expires_at",
    "is_active",
}
NOBODYS = "01a2073e-dd9f-7fda-84ba-7f5637fc35ee"
BY_ID = [("GET", ""), ("DELETE", ""), ("POST", "/rotate"), ("POST", "/release-device")]


async def test_tokens_are_listed_newest_first_and_without_their_strings(person: Person) -> None:
    await person.top_up("100.00")
    bought = [await person.buy_token(hours) for hours in (1, 12, 24)]
    listed = await person.get(MY_TOKENS)
    assert listed["next_cursor"] is None
    assert [item["id"] for item in listed["items"]] == [token["id"] for token in reversed(bought)]
    for item, token in zip(listed["items"], reversed(bought), strict=True):
        assert set(item) == FIELDS
        assert item == {key: value for key, value in token.items() if key != "token"}
        assert await person.get(f"/api/v1/tokens/{item['id']}") == item


async def test_pages_are_cut_between_tokens_and_none_is_lost(person: Person) -> None:
    await person.top_up("10.00")
    bought = [(await person.buy_token(1))["id"] for _ in range(7)]
    seen: list[str] = []
    cursor = ""
    sizes = []
    while True:
        page = await person.get(f"{MY_TOKENS}?limit=3{cursor}")
        sizes.append(len(page["items"]))
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert sizes == [3, 3, 1]
    assert seen == bought[::-1]


async def test_a_full_last_page_has_no_next_one(person: Person) -> None:
    await person.top_up("2.00")
    for _ in range(2):
        await person.buy_token(1)
    page = await person.get(f"{MY_TOKENS}?limit=2")
    assert (len(page["items"]), page["next_cursor"]) == (2, None)


async def test_ended_and_expired_tokens_are_listed_on_request_only(ctx: Context, person: Person) -> None:
    await person.top_up("10.00")
    fresh, running, expired, refunded = [(await person.buy_token(1))["id"] for _ in range(4)]
    for token_id in (running, expired):
        await service.activate(ctx, token_id=UUID(token_id))
    await expire(ctx, UUID(expired))
    assert (await person.request("DELETE", f"/api/v1/tokens/{refunded}"))[0] == 200

    assert [item["id"] for item in (await person.get(MY_TOKENS))["items"]] == [running, fresh]
    assert await person.get(f"{MY_TOKENS}?active_only=true") == await person.get(MY_TOKENS)
    everything = await person.get(f"{MY_TOKENS}?active_only=false")
    assert [(item["id"], item["is_active"]) for item in everything["items"]] == [
        (refunded, False),
        (expired, False),
        (running, True),
        (fresh, True),
    ]
    # The worker's sweep marks the expired one as ended, which changes nothing to its owner.
    await service.end_expired_tokens(ctx)
    assert await person.get(f"{MY_TOKENS}?active_only=false") == everything


async def test_an_activated_token_shows_its_clock(ctx: Context, person: Person) -> None:
    await person.top_up("18.00")
    token_id = (await person.buy_token(24))["id"]
    grant = await service.activate(ctx, token_id=UUID(token_id))
    shown = await person.get(f"/api/v1/tokens/{token_id}")
    assert grant.activated_at is not None
    assert grant.expires_at is not None
    assert shown["activated_at"] == grant.activated_at.isoformat().replace("+00:00", "Z")
    assert shown["expires_at"] == grant.expires_at.isoformat().replace("+00:00", "Z")
    assert shown["is_active"] is True


@pytest.mark.parametrize(
    "query",
    ["active_only=maybe", "active_only=", "limit=0", "limit=101", "cursor=%21", "cursor=MQ", "cursor=", "sort=id"],
)
async def test_a_bad_query_is_refused(person: Person, query: str) -> None:
    status, problem = await person.request("GET", f"{MY_TOKENS}?{query}")
    assert (status, problem["code"]) == (422, "invalid")


@pytest.mark.parametrize(("method", "suffix"), BY_ID)
async def test_another_persons_token_does_not_exist(
    client: aiohttp.ClientSession, person: Person, method: str, suffix: str
) -> None:
    await person.top_up("1.00")
    token_id = (await person.buy_token(1))["id"]
    stranger = await register(client)
    status, problem = await stranger.request(method, f"/api/v1/tokens/{token_id}{suffix}")
    assert (status, problem["code"]) == (404, "token_not_found")
    assert (await stranger.get(f"{MY_TOKENS}?active_only=false"))["items"] == []
    assert (await person.get(f"/api/v1/tokens/{token_id}"))["is_active"] is True
    assert await person.balance() == "0.00"


@pytest.mark.parametrize(("method", "suffix"), BY_ID)
@pytest.mark.parametrize("token_id", [NOBODYS, "0", "my-token", "%00", "..%2f1", "x" * 300, NOBODYS + "0"])
async def test_an_id_of_no_token_is_not_found(person: Person, method: str, suffix: str, token_id: str) -> None:
    status, problem = await person.request(method, f"/api/v1/tokens/{token_id}{suffix}")
    assert (status, problem["status"]) == (404, 404)


@pytest.mark.parametrize(("method", "suffix"), [*BY_ID, ("GET", "/../my-tokens")])
async def test_only_a_signed_in_person_reaches_tokens(client: aiohttp.ClientSession, method: str, suffix: str) -> None:
    async with client.request(method, f"/api/v1/tokens/{NOBODYS}{suffix}") as response:
        assert response.status == 401
