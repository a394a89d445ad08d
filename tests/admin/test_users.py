"""Superusers look for people, ban them, and make or unmake superusers; the last one always remains."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest

from tests.admin.superusers import audit_rows, make_superuser, until
from tests.support.accounts import log_in, probe, refresh
from tests.support.people import Person, gateway_headers, register
from zenzefi.context import Context

USERS = "/api/v1/admin/users"
NOBODY = "01a2073e-dd9f-7fda-84ba-7f5637fc35ee"
FIELDS = {
    *("id", "email", "username", "full_name", "is_active", "is_superuser"),
    *("referral_code", "created_at", "updated_at"),
}


async def walk(person: Person, path: str) -> list[Any]:
    """All items of a list, page by page."""
    items: list[Any] = []
    cursor = ""
    while True:
        page = await person.get(f"{path}{cursor}")
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = f"&cursor={page['next_cursor']}"


async def set_flags(superuser: Person, user_id: str, **flags: object) -> tuple[int, Any]:
    return await superuser.request("PATCH", f"{USERS}/{user_id}", json=flags)


async def test_users_are_found_by_the_beginning_of_their_names(
    superuser: Person, client: aiohttp.ClientSession
) -> None:
    prefix = f"find{uuid4().hex[:10]}"
    people = [await register(client, name=f"{prefix}.{number}") for number in range(5)]
    assert (await set_flags(superuser, people[2].user_id, is_active=False))[0] == 200
    newest_first = [person.user_id for person in reversed(people)]
    for search in (prefix, prefix.upper()):
        found = await walk(superuser, f"{USERS}?search={search}&limit=2")
        assert [user["id"] for user in found] == newest_first
        assert set(found[0]) == FIELDS
    assert [user["id"] for user in await walk(superuser, f"{USERS}?search={people[1].email}")] == [people[1].user_id]
    banned = await superuser.get(f"{USERS}?search={prefix}&is_active=false")
    assert [user["id"] for user in banned["items"]] == [people[2].user_id]
    others = await superuser.get(f"{USERS}?search={prefix}&is_active=true")
    assert len(others["items"]) == 4
    # Neither a wildcard nor the middle of a name finds anybody. (Somebody's name may well begin with an underscore.)
    for search in ("%25", f"%25{prefix[1:]}", f"_{prefix[1:]}", prefix[1:], "п", f"{prefix}%25"):
        assert (await superuser.get(f"{USERS}?search={search}"))["items"] == []
    everybody = [UUID(user["id"]) for user in (await superuser.get(f"{USERS}?limit=100"))["items"]]
    assert everybody == sorted(everybody, reverse=True)
    assert {UUID(person.user_id) for person in people} <= set(everybody)


async def test_a_ban_ends_logins_and_tokens_and_its_end_lets_them_work_again(
    ctx: Context, superuser: Person, client: aiohttp.ClientSession
) -> None:
    person = await register(client)
    await person.top_up("1.00")
    token = (await person.buy_token(1))["token"]

    async def through_the_gateway() -> int:
        async with client.get("/api/v1/proxy/hello", headers=gateway_headers(token)) as response:
            await response.read()
            return response.status

    assert await through_the_gateway() == 200
    status, user = await set_flags(superuser, person.user_id, is_active=False)
    assert (status, user["is_active"]) == (200, False)
    await until(401, through_the_gateway, within_s=1)
    await until(401, lambda: probe(client, person.access_token), within_s=0.1)  # at once in this process
    assert (await refresh(client, person.refresh_token))[0] == 401
    assert (await log_in(client, person.email))[0] == 401

    status, user = await set_flags(superuser, person.user_id, is_active=True)
    assert (status, user["is_active"]) == (200, True)
    await until(200, through_the_gateway, within_s=2)
    # The old logins stay ended; signing in again works.
    assert await probe(client, person.access_token) == 401
    assert (await log_in(client, person.email))[0] == 200

    banned, unbanned = await audit_rows(ctx, action="user.update_flags", resource_id=person.user_id)
    assert str(banned["actor_user_id"]) == superuser.user_id
    assert banned["before"] == {"is_active": True, "is_superuser": False}
    assert banned["after"] == {"is_active": False, "is_superuser": False, "ended_logins": 1}
    assert unbanned["after"] == {"is_active": True, "is_superuser": False, "ended_logins": 0}


async def test_a_change_of_nothing_leaves_no_trace(ctx: Context, superuser: Person, person: Person) -> None:
    for flags in ({}, {"is_active": True}, {"is_active": True, "is_superuser": False}):
        status, user = await set_flags(superuser, person.user_id, **flags)
        assert (status, user["is_active"], user["is_superuser"]) == (200, True, False)
    assert await audit_rows(ctx, action="user.update_flags", resource_id=person.user_id) == []


async def test_nobody_changes_their_own_account(superuser: Person) -> None:
    for flags in ({"is_superuser": False}, {"is_active": False}, {"is_superuser": True}):
        status, problem = await set_flags(superuser, superuser.user_id, **flags)
        assert (status, problem["code"]) == (409, "own_account")
    assert (await superuser.get(f"{USERS}?limit=1"))["items"]


async def test_of_superusers_who_remove_each_other_one_remains(ctx: Context, client: aiohttp.ClientSession) -> None:
    for flags in ({"is_superuser": False}, {"is_active": False}):
        for _ in range(3):
            circle = [await make_superuser(ctx, client) for _ in range(3)]
            pairs = zip(circle, circle[1:] + circle[:1], strict=True)
            answers = await asyncio.gather(*(set_flags(one, other.user_id, **flags) for one, other in pairs))
            statuses = sorted(status for status, _ in answers)
            assert set(statuses) <= {200, 401, 403}, answers
            assert statuses[0] == 200
            async with ctx.connection() as conn:
                left = await conn.fetchval(
                    "SELECT count(*) FROM users WHERE id = ANY($1::uuid[]) AND is_superuser AND is_active",
                    [UUID(one.user_id) for one in circle],
                )
            assert left == 3 - statuses.count(200)
            assert left >= 1


async def test_a_superuser_is_made_and_unmade(superuser: Person, person: Person) -> None:
    async def look() -> int:
        return (await person.request("GET", USERS))[0]

    assert (await set_flags(superuser, person.user_id, is_superuser=True))[1]["is_superuser"] is True
    await until(200, look, within_s=1)
    assert (await set_flags(superuser, person.user_id, is_superuser=False))[0] == 200
    await until(403, look, within_s=1)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PATCH", "{id}", {"balance": "1000000.00"}, 422),
        ("PATCH", "{id}", {"id": NOBODY}, 422),
        ("PATCH", "{id}", {"referral_code": "AAAAAAAA"}, 422),
        ("PATCH", "{id}", {"is_active": None}, 422),
        ("PATCH", "{id}", {"is_active": 0}, 422),
        ("PATCH", "{id}", {"is_superuser": "yes"}, 422),
        ("PATCH", NOBODY, {"is_active": False}, 404),
        ("PATCH", "me", {"is_active": False}, 404),
        ("POST", f"{NOBODY}/adjustments", {"amount": "1.00", "reason": "a gift"}, 404),
        ("POST", f"{NOBODY}/adjustments", {"amount": "-1.00", "reason": "a gift"}, 404),
        ("POST", "0/adjustments", {"amount": "1.00", "reason": "a gift"}, 404),
        *(
            ("POST", "{id}/adjustments", body, 422)
            for body in (
                {"amount": "1.00"},
                {"reason": "why"},
                {"amount": "0.00", "reason": "why"},
                {"amount": "-0.00", "reason": "why"},
                {"amount": "0.001", "reason": "why"},
                {"amount": True, "reason": "why"},
                {"amount": "NaN", "reason": "why"},
                {"amount": "1e400", "reason": "why"},
                {"amount": "1.00", "reason": ""},
                {"amount": "1.00", "reason": " \t "},
                {"amount": "1.00", "reason": "a\nb"},
                {"amount": "1.00", "reason": "why", "balance_after": "5.00"},
                {"amount": "1.00", "reason": "why", "source": "deposits"},
            )
        ),
        ("GET", "?is_active=maybe", None, 422),
        ("GET", "?cursor=MQ", None, 422),
        ("GET", "?sort=email", None, 422),
        ("GET", "?search=" + "a" * 255, None, 422),
    ],
)
async def test_what_is_not_offered_is_refused(
    superuser: Person, person: Person, method: str, path: str, body: object, status: int
) -> None:
    path = USERS + ("" if path.startswith("?") else "/") + path.replace("{id}", person.user_id)
    answer, problem = await superuser.request(method, path, json=body)
    assert answer == status, problem
    assert await person.balance() == "0.00"


async def test_an_adjustment_is_a_transaction_with_its_reason(ctx: Context, superuser: Person, person: Person) -> None:
    path = f"{USERS}/{person.user_id}/adjustments"
    key = {"Idempotency-Key": uuid4().hex}
    given = {"amount": "12.34", "reason": "an outage on Monday"}
    first = await superuser.request("POST", path, json=given, headers=key)
    assert first[0] == 201, first
    assert first == await superuser.request("POST", path, json=given, headers=key)
    assert (first[1]["amount"], first[1]["transaction_type"], first[1]["balance_after"]) == (
        *("12.34", "adjustment", "12.34"),
    )
    status, taken = await superuser.request("POST", path, json={"amount": "-2.34", "reason": "paid twice"})
    assert (status, taken["amount"], taken["balance_after"]) == (201, "-2.34", "10.00")
    status, problem = await superuser.request("POST", path, json={"amount": "-10.01", "reason": "too much"})
    assert (status, problem["code"]) == (402, "insufficient_funds")
    history = (await person.get("/api/v1/currency/transactions"))["items"]
    assert [(entry["amount"], entry["description"]) for entry in history] == [
        ("-2.34", "paid twice"),
        ("12.34", "an outage on Monday"),
    ]
    rows = await audit_rows(ctx, action="wallet.adjust", resource_id=person.user_id)
    assert [(row["before"]["balance"], row["after"]["balance"]) for row in rows] == [
        ("0.00", "12.34"),
        ("12.34", "10.00"),
    ]
    assert {str(row["actor_user_id"]) for row in rows} == {superuser.user_id}


ADMIN_ROUTES = [
    ("GET", USERS),
    ("PATCH", f"{USERS}/{NOBODY}"),
    ("POST", f"{USERS}/{NOBODY}/adjustments"),
    ("GET", "/api/v1/admin/tokens"),
    ("DELETE", f"/api/v1/admin/tokens/{NOBODY}"),
    ("GET", "/api/v1/admin/audit-logs"),
]


@pytest.mark.parametrize(("method", "path"), ADMIN_ROUTES)
async def test_an_ordinary_user_may_nothing_of_it(person: Person, method: str, path: str) -> None:
    status, problem = await person.request(method, path, json={"is_superuser": True})
    assert (status, problem["code"]) == (403, "forbidden")
