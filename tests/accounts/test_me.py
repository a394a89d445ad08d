"""GET and PATCH /api/v1/users/me."""

import asyncio
from datetime import datetime
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from tests.support.accounts import claims_of, log_in, probe, refresh
from tests.support.people import PASSWORD, Person, register
from zenzefi.context import Context

ME = "/api/v1/users/me"
NEW_PASSWORD = "another battery staple"


async def change_password(person: Person, **changes: Any) -> tuple[int, Any]:
    body = {"password": NEW_PASSWORD, "current_password": PASSWORD, **changes}
    return await person.request("PATCH", ME, json=body)


async def open_logins(ctx: Context, person: Person) -> list[str]:
    async with ctx.connection() as conn:
        rows = await conn.fetch("SELECT id FROM logins WHERE user_id = $1 AND ended_at IS NULL", UUID(person.user_id))
    return [str(row["id"]) for row in rows]


async def test_a_user_sees_themselves(person: Person) -> None:
    user = await person.get(ME)
    assert (user["id"], user["email"], user["username"]) == (person.user_id, person.email, person.username)
    assert "password_hash" not in user


async def test_nobody_sees_themselves_unless_signed_in(client: aiohttp.ClientSession) -> None:
    for method in ("GET", "PATCH"):
        async with client.request(method, ME) as response:
            assert response.status == 401


async def test_a_new_name_is_kept_and_audited(ctx: Context, person: Person) -> None:
    before = await person.get(ME)
    status, user = await person.request("PATCH", ME, json={"full_name": " Grace Hopper "})
    assert (status, user["full_name"]) == (200, "Grace Hopper")
    # As instants: of two texts the one without a fraction of a second would be the greater one.
    assert datetime.fromisoformat(user["updated_at"]) > datetime.fromisoformat(before["updated_at"])
    assert await person.get(ME) == user
    async with ctx.connection() as conn:
        row = await conn.fetchrow(
            "SELECT * FROM audit_log WHERE resource_id = $1 AND action = 'user.update'", person.user_id
        )
    assert row is not None
    assert (row["before"], row["after"]) == ({"full_name": None}, {"full_name": "Grace Hopper"})
    assert str(row["actor_user_id"]) == person.user_id


@pytest.mark.parametrize("empty", [None, "", " "])
async def test_an_empty_name_removes_it(person: Person, empty: Any) -> None:
    await person.request("PATCH", ME, json={"full_name": "Grace Hopper"})
    status, user = await person.request("PATCH", ME, json={"full_name": empty})
    assert (status, user["full_name"]) == (200, None)


async def test_a_patch_of_nothing_changes_nothing(person: Person) -> None:
    before = await person.get(ME)
    assert await person.request("PATCH", ME, json={}) == (200, before)


@pytest.mark.parametrize(
    "field", ["is_superuser", "is_active", "email", "username", "id", "referral_code", "referred_by", "password_hash"]
)
async def test_what_is_not_the_users_to_change_is_refused(person: Person, field: str) -> None:
    before = await person.get(ME)
    status, problem = await person.request("PATCH", ME, json={"full_name": "Eve", field: True})
    assert status == 422
    assert list(problem["errors"]) == [field]
    assert await person.get(ME) == before


async def test_a_new_password_ends_all_other_logins_at_once(
    client: aiohttp.ClientSession, ctx: Context, person: Person
) -> None:
    others = [(await log_in(client, person.email))[1] for _ in range(3)]
    assert [await probe(client, other["access_token"]) for other in others] == [200] * 3
    status, user = await change_password(person, full_name="Ada")
    assert (status, user["full_name"]) == (200, "Ada")
    for other in others:
        assert await probe(client, other["access_token"]) == 401
        assert (await refresh(client, other["refresh_token"]))[0] == 401
    assert await probe(client, person.access_token) == 200
    assert (await refresh(client, person.refresh_token))[0] == 200
    assert (await log_in(client, person.email))[0] == 401
    assert (await log_in(client, person.email, NEW_PASSWORD))[0] == 200
    async with ctx.connection() as conn:
        audited = await conn.fetch(
            "SELECT after FROM audit_log WHERE resource_id = $1 AND action = 'user.change_password'", person.user_id
        )
    assert [row["after"] for row in audited] == [{"ended_logins": 3}]


async def test_a_new_password_leaves_other_users_alone(client: aiohttp.ClientSession, person: Person) -> None:
    other = await register(client)
    assert (await change_password(person))[0] == 200
    assert await probe(client, other.access_token) == 200


async def test_a_new_password_needs_the_current_one(client: aiohttp.ClientSession, person: Person) -> None:
    status, problem = await change_password(person, current_password="not my password")
    assert (status, problem["code"]) == (403, "wrong_current_password")
    status, problem = await person.request("PATCH", ME, json={"password": NEW_PASSWORD, "full_name": "Eve"})
    assert status == 422
    assert list(problem["errors"]) == ["current_password"]
    assert (await person.get(ME))["full_name"] is None
    assert (await log_in(client, person.email))[0] == 200


@pytest.mark.parametrize("password", ["short", "password", "x" * 257, None, 12345678, "the username", "the email"])
async def test_a_new_password_is_held_to_the_rules(person: Person, password: Any) -> None:
    own = {"the username": person.username, "the email": person.email}
    status, problem = await change_password(person, password=own.get(password, password))
    assert status == 422
    assert list(problem["errors"]) == ["password"]


async def test_no_login_by_the_old_password_outlives_its_change(
    client: aiohttp.ClientSession, ctx: Context, person: Person
) -> None:
    for old, new in ((PASSWORD, NEW_PASSWORD), (NEW_PASSWORD, PASSWORD)) * 2:
        answers = await asyncio.gather(
            *(log_in(client, person.email, old) for _ in range(6)),
            change_password(person, password=new, current_password=old),
            *(log_in(client, person.email, old) for _ in range(6)),
        )
        assert answers[6][0] == 200
        assert await open_logins(ctx, person) == [claims_of(person.access_token)["sid"]]


async def test_of_two_password_changes_at_once_one_wins(client: aiohttp.ClientSession, person: Person) -> None:
    passwords = [f"{NEW_PASSWORD} {number}" for number in range(4)]
    answers = await asyncio.gather(*(change_password(person, password=password) for password in passwords))
    assert sorted(status for status, _ in answers) == [200, 403, 403, 403]
    logins = [(await log_in(client, person.email, password))[0] for password in passwords]
    assert [status == 200 for status in logins] == [status == 200 for status, _ in answers]
