"""Superusers see anybody's tokens, never a string, and end them; what was done stands in the audit log."""

import asyncio
from uuid import UUID

import aiohttp
import pytest

from tests.admin.superusers import audit_rows, until
from tests.admin.test_users import walk
from tests.support.people import Person, gateway_headers, register
from zenzefi.access import service as access
from zenzefi.context import Context
from zenzefi.wallet import service as wallet

TOKENS = "/api/v1/admin/tokens"
LOGS = "/api/v1/admin/audit-logs"


async def test_tokens_are_listed_of_one_user_or_of_all(superuser: Person, client: aiohttp.ClientSession) -> None:
    people = [await register(client) for _ in range(2)]
    bought = []
    for person in people:
        await person.top_up("3.00")
        bought += [await person.buy_token(1) for _ in range(3)]
    assert (await superuser.request("DELETE", f"{TOKENS}/{bought[4]['id']}"))[0] == 200
    own = await walk(superuser, f"{TOKENS}?user_id={people[1].user_id}&active_only=false&limit=2")
    assert [token["id"] for token in own] == [token["id"] for token in reversed(bought[3:])]
    assert [token["end_reason"] for token in own] == [None, "revoked", None]
    assert all(token["user_id"] == people[1].user_id and "token" not in token for token in own)
    still_open = await walk(superuser, f"{TOKENS}?user_id={people[1].user_id}")
    assert [token["id"] for token in still_open] == [bought[5]["id"], bought[3]["id"]]
    newest = (await superuser.get(f"{TOKENS}?limit=3"))["items"]
    assert [token["id"] for token in newest] == [bought[5]["id"], bought[3]["id"], bought[2]["id"]]


async def test_a_revoked_token_dies_within_a_second_and_keeps_its_price(
    ctx: Context, superuser: Person, person: Person
) -> None:
    await person.top_up("18.00")
    bought = await person.buy_token(24)

    async def through_the_gateway() -> int:
        headers = gateway_headers(bought["token"])
        async with person.client.get("/api/v1/proxy/hello", headers=headers) as response:
            await response.read()
            return response.status

    assert await through_the_gateway() == 200
    status, problem = await superuser.request("DELETE", f"{TOKENS}/{bought['id']}?refund=true")
    assert (status, problem["code"]) == (409, "token_activated")
    assert await through_the_gateway() == 200
    status, revoked = await superuser.request("DELETE", f"{TOKENS}/{bought['id']}")
    assert (status, revoked) == (200, {"revoked": True, "user_id": person.user_id, "refund_amount": "0.00"})
    await until(401, through_the_gateway, within_s=1)
    assert await person.balance() == "0.00"
    status, problem = await superuser.request("DELETE", f"{TOKENS}/{bought['id']}")
    assert (status, problem["code"]) == (409, "token_ended")
    (row,) = await audit_rows(ctx, action="token.revoke", resource_id=bought["id"])
    assert (str(row["actor_user_id"]), row["after"]) == (superuser.user_id, {"end_reason": "revoked"})
    assert row["before"]["price"] == "18.00"


async def test_a_revocation_with_refund_pays_the_owner_once(ctx: Context, superuser: Person, person: Person) -> None:
    await person.top_up("18.00")
    bought = await person.buy_token(24)
    answers = await asyncio.gather(
        *(superuser.request("DELETE", f"{TOKENS}/{bought['id']}?refund=true") for _ in range(5)),
        *(person.request("DELETE", f"/api/v1/tokens/{bought['id']}") for _ in range(5)),
    )
    assert sorted(status for status, _ in answers) == [200] + [409] * 9
    assert await person.balance() == "18.00"
    assert len(await audit_rows(ctx, action="token.refund", resource_id=bought["id"])) == 1


async def test_activation_and_forced_refund_never_both_happen(ctx: Context, superuser: Person, person: Person) -> None:
    await person.top_up("20.00")
    for _ in range(20):
        token_id = (await person.buy_token(1))["id"]
        (status, _), activation = await asyncio.gather(
            superuser.request("DELETE", f"{TOKENS}/{token_id}?refund=true"),
            access.activate(ctx, token_id=UUID(token_id)),
            return_exceptions=True,
        )
        assert (status == 200) is isinstance(activation, BaseException), (status, activation)


@pytest.mark.parametrize("path", [f"{TOKENS}/{UUID(int=1)}", f"{TOKENS}/x", f"{TOKENS}/{UUID(int=1)}?refund=true"])
async def test_a_token_that_does_not_exist_is_not_found(superuser: Person, path: str) -> None:
    assert (await superuser.request("DELETE", path))[0] == 404


@pytest.mark.parametrize("query", ["user_id=x", "active_only=2", "cursor=MQ", "scope=full"])
async def test_a_bad_query_is_refused(superuser: Person, query: str) -> None:
    assert (await superuser.request("GET", f"{TOKENS}?{query}"))[0] == 422
    assert (await superuser.request("GET", f"{LOGS}?{query.replace('active_only', 'action_only')}"))[0] == 422


async def test_the_audit_log_is_listed_by_who_and_what(superuser: Person, person: Person) -> None:
    await person.top_up("2.00")
    tokens = [await person.buy_token(1) for _ in range(2)]
    by_person = await walk(superuser, f"{LOGS}?user_id={person.user_id}&limit=2")
    assert [entry["action"] for entry in by_person] == [
        *("token.purchase", "token.purchase", "wallet.mock_purchase", "login.open", "user.register"),
    ]
    assert [entry["resource_id"] for entry in by_person[:2]] == [tokens[1]["id"], tokens[0]["id"]]
    assert by_person[0]["ip"] == "127.0.0.1"
    assert all(token["token"] not in str(by_person) for token in tokens)
    purchases = await superuser.get(f"{LOGS}?user_id={person.user_id}&action=token.purchase&limit=1")
    assert (len(purchases["items"]), purchases["next_cursor"] is None) == (1, False)
    of_type = await superuser.get(f"{LOGS}?resource_type=access_token&limit=1")
    assert of_type["items"][0]["id"] == by_person[0]["id"]
    assert (await superuser.get(f"{LOGS}?action=no.such"))["items"] == []


async def test_the_ledger_is_sound_after_all_of_it(ctx: Context) -> None:
    assert (await wallet.verify(ctx)).is_sound
