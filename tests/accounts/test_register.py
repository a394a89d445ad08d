"""POST /api/v1/auth/register."""

import asyncio
import re
import secrets
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest

from tests.support.accounts import ban
from tests.support.people import PASSWORD, Person
from zenzefi.context import Context

REGISTER = "/api/v1/auth/register"


def account(**changes: Any) -> dict[str, Any]:
    """A body that is accepted, and what is different about it."""
    name = f"new-{uuid4().hex[:12]}"
    return {"email": f"{name}@example.com", "username": name, "password": PASSWORD, **changes}


async def post(client: aiohttp.ClientSession, body: Any, **params: str) -> tuple[int, Any]:
    async with client.post(REGISTER, json=body, params=params) as response:
        return response.status, await response.json(content_type=None)


async def test_a_new_account_is_answered_without_its_password(client: aiohttp.ClientSession) -> None:
    body = account(full_name="  Ada Lovelace ")
    status, user = await post(client, body)
    assert status == 201
    assert set(user) == {
        "id",
        "email",
        "username",
        "full_name",
        "is_active",
        "is_superuser",
        "referral_code",
        "created_at",
        "updated_at",
    }
    assert UUID(user["id"]).version == 7
    assert (user["email"], user["username"]) == (body["email"], body["username"])
    assert user["full_name"] == "Ada Lovelace"
    assert user["is_active"] is True
    assert user["is_superuser"] is False
    assert re.fullmatch("[2-9A-HJKMNP-Z]{8}", user["referral_code"])
    assert user["created_at"] == user["updated_at"]
    assert user["created_at"].endswith("Z")


async def test_an_email_address_is_stored_stripped_and_in_lower_case(client: aiohttp.ClientSession) -> None:
    name = uuid4().hex[:12]
    status, user = await post(client, account(email=f"  Ada.{name}@Example.COM\n"))
    assert status == 201
    assert user["email"] == f"ada.{name}@example.com"


@pytest.mark.parametrize("spelling", [str.upper, str.title, lambda email: f" {email}\t"])
async def test_a_taken_email_address_is_409_however_it_is_spelled(
    client: aiohttp.ClientSession, person: Person, spelling: Any
) -> None:
    status, problem = await post(client, account(email=spelling(person.email)))
    assert (status, problem["code"]) == (409, "email_taken")


async def test_a_taken_username_is_409_whatever_its_case(client: aiohttp.ClientSession, person: Person) -> None:
    status, problem = await post(client, account(username=person.username.upper()))
    assert (status, problem["code"]) == (409, "username_taken")


@pytest.mark.parametrize(
    "email",
    [
        "",
        " ",
        "no-at-sign",
        "@example.com",
        "ada@",
        "ada@localhost",
        "ada@example..com",
        "ada@-example.com",
        "ada@example-.com",
        "ada@example.com.",
        "ada@127.0.0.1",
        ".ada@example.com",
        "ada.@example.com",
        "a..da@example.com",
        "ada lovelace@example.com",
        "ada@exam ple.com",
        "ada@example.com\nbcc:eve@example.com",
        "ada@@example.com",
        "<ada@example.com>",
        "ädä@example.com",
        "ada@exämple.com",
        "\u0130da@example.com",  # its lower case has two characters
        f"{'a' * 65}@example.com",
        f"ada@{'a' * 64}.com",
        f"ada@{'.'.join(['a' * 50] * 5)}.com",  # 259 characters
    ],
)
async def test_a_bad_email_address_is_422(client: aiohttp.ClientSession, email: str) -> None:
    status, problem = await post(client, account(email=email))
    assert status == 422
    assert list(problem["errors"]) == ["email"]


@pytest.mark.parametrize(
    "email", ["{}@example.com", "{}+tag@mail.example.co.uk", "o'{}@example.org", "{}@xn--exmple-cua.com", "{}@1.io"]
)
async def test_usual_email_addresses_are_taken(client: aiohttp.ClientSession, email: str) -> None:
    status, problem = await post(client, account(email=email.format(uuid4().hex[:12])))
    assert status == 201, problem


async def test_the_longest_email_address_has_254_characters(client: aiohttp.ClientSession) -> None:
    local_part = uuid4().hex.ljust(64, "x")
    domain = f"{'a' * 61}.{'b' * 61}.{'c' * 61}.abc"
    assert len(f"{local_part}@{domain}") == 254
    assert (await post(client, account(email=f"{local_part}@{domain}")))[0] == 201
    assert (await post(client, account(email=f"{local_part}@{domain}d")))[0] == 422


@pytest.mark.parametrize(
    "username", ["ab", "a" * 51, "with space", "ada@home", "ädä", "ada\n", "аda", "ada/eve", "ada\u200beve", "١٢٣", ""]
)
async def test_a_bad_username_is_422(client: aiohttp.ClientSession, username: str) -> None:
    status, problem = await post(client, account(username=username))
    assert status == 422
    assert list(problem["errors"]) == ["username"]


@pytest.mark.parametrize("length", [3, 50])
async def test_usernames_of_3_to_50_characters_are_taken(client: aiohttp.ClientSession, length: int) -> None:
    status, problem = await post(client, account(username=secrets.token_urlsafe(length)[:length]))
    assert status == 201, problem


@pytest.mark.parametrize(
    "password",
    [
        "short-1",
        "password",
        "PASSWORD",
        "Password123",
        "qwertyuiop",
        " 12345678 ",
        "ｐａｓｓｗｏｒｄ",
        "x" * 257,
        "zzzzzzzz",
    ],
)
async def test_a_short_long_or_common_password_is_422(client: aiohttp.ClientSession, password: str) -> None:
    status, problem = await post(client, account(password=password))
    assert status == 422
    assert list(problem["errors"]) == ["password"]


@pytest.mark.parametrize("field", ["email", "username"])
async def test_the_email_address_or_username_is_no_password(client: aiohttp.ClientSession, field: str) -> None:
    body = account()
    status, problem = await post(client, {**body, "password": body[field].upper()})
    assert status == 422
    assert list(problem["errors"]) == ["password"]


@pytest.mark.parametrize("length", [8, 256])
async def test_passwords_of_8_to_256_characters_are_taken(client: aiohttp.ClientSession, length: int) -> None:
    status, problem = await post(client, account(password="pässwörd-☃-🔑 "[:length].ljust(length, "7")))
    assert status == 201, problem


@pytest.mark.parametrize(
    "field",
    ["is_superuser", "is_active", "id", "balance", "referred_by", "referral_code", "password_hash", "__proto__"],
)
async def test_fields_that_are_not_the_clients_are_refused(client: aiohttp.ClientSession, field: str) -> None:
    status, problem = await post(client, account(**{field: True}))
    assert status == 422
    assert list(problem["errors"]) == [field]


async def test_all_that_is_wrong_is_named_at_once(client: aiohttp.ClientSession) -> None:
    status, problem = await post(client, {"email": 5, "username": None, "full_name": ["x"], "role": "admin"})
    assert status == 422
    assert set(problem["errors"]) == {"email", "username", "password", "full_name", "role"}


@pytest.mark.parametrize("full_name", ["x" * 101, "Ada\nLovelace", "Ada\x1b[31m", 7])
async def test_a_full_name_that_is_long_or_holds_control_characters_is_422(
    client: aiohttp.ClientSession, full_name: Any
) -> None:
    status, problem = await post(client, account(full_name=full_name))
    assert status == 422
    assert list(problem["errors"]) == ["full_name"]


@pytest.mark.parametrize("full_name", [None, "", "  "])
async def test_an_empty_full_name_is_none(client: aiohttp.ClientSession, full_name: Any) -> None:
    status, user = await post(client, account(full_name=full_name))
    assert (status, user["full_name"]) == (201, None)


async def test_who_brought_a_user_is_kept(client: aiohttp.ClientSession, ctx: Context, person: Person) -> None:
    code = (await person.get("/api/v1/users/me"))["referral_code"]
    status, user = await post(client, account(), ref=f" {code.lower()} ")
    assert status == 201
    async with ctx.connection() as conn:
        referred_by = await conn.fetchval("SELECT referred_by FROM users WHERE id = $1", UUID(user["id"]))
    assert str(referred_by) == person.user_id


@pytest.mark.parametrize("code", ["ZZZZZZZZ", "", "0OIL1", "a" * 64, "ÄÖÜ", "' OR 1=1 --"])
async def test_an_unknown_referral_code_is_422_and_makes_no_account(client: aiohttp.ClientSession, code: str) -> None:
    body = account()
    status, problem = await post(client, body, ref=code)
    assert (status, problem["code"]) == (422, "unknown_referral_code")
    assert (await post(client, body))[0] == 201


async def test_a_banned_users_referral_code_is_unknown(
    client: aiohttp.ClientSession, ctx: Context, person: Person
) -> None:
    code = (await person.get("/api/v1/users/me"))["referral_code"]
    await ban(ctx, person.user_id)
    status, problem = await post(client, account(), ref=code)
    assert (status, problem["code"]) == (422, "unknown_referral_code")


async def test_an_account_is_in_the_audit_log_without_email_and_password(
    client: aiohttp.ClientSession, ctx: Context
) -> None:
    async with client.post(REGISTER, json=account(), headers={"X-Request-ID": "audited-1"}) as response:
        user = await response.json()
    async with ctx.connection() as conn:
        rows = await conn.fetch("SELECT * FROM audit_log WHERE resource_id = $1", user["id"])
    assert len(rows) == 1
    row = dict(rows[0])
    assert (row["action"], row["resource_type"], row["actor_kind"]) == ("user.register", "user", "user")
    assert str(row["actor_user_id"]) == user["id"]
    assert row["request_id"] == "audited-1"
    assert str(row["ip"]) == "127.0.0.1"
    assert row["after"] == {"username": user["username"], "is_superuser": False, "referred_by": None}


async def test_the_password_is_stored_as_argon2id(client: aiohttp.ClientSession, ctx: Context) -> None:
    _, user = await post(client, account())
    async with ctx.connection() as conn:
        stored = await conn.fetchval("SELECT password_hash FROM users WHERE id = $1", UUID(user["id"]))
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_of_twenty_registrations_at_once_one_makes_the_account(client: aiohttp.ClientSession) -> None:
    email = f"race-{uuid4().hex}@example.com"
    answers = await asyncio.gather(*(post(client, account(email=email)) for _ in range(20)))
    assert sorted(status for status, _ in answers) == [201] + [409] * 19
    assert {body["code"] for status, body in answers if status == 409} == {"email_taken"}
