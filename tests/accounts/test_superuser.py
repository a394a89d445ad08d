"""accounts.service.create_superuser: what `zenzefi create-superuser` calls."""

import asyncio
from collections.abc import Awaitable
from uuid import uuid4

import aiohttp
import pytest

from tests.support.accounts import log_in
from tests.support.people import PASSWORD, Person
from zenzefi.accounts import service
from zenzefi.accounts.errors import EmailTaken, UsernameTaken
from zenzefi.accounts.models import User
from zenzefi.context import Context
from zenzefi.errors import Invalid


def make(ctx: Context, name: str, *, password: str = PASSWORD, if_missing: bool = False) -> Awaitable[User]:
    return service.create_superuser(
        ctx, email=f"{name}@example.com", username=name, password=password, if_missing=if_missing
    )


async def test_a_superuser_can_sign_in_and_is_audited_as_an_operators_work(
    client: aiohttp.ClientSession, ctx: Context
) -> None:
    name = f"root-{uuid4().hex[:12]}"
    user = await make(ctx, name)
    assert user.is_superuser
    assert (await log_in(client, f"{name}@example.com"))[0] == 200
    async with ctx.connection() as conn:
        row = await conn.fetchrow("SELECT * FROM audit_log WHERE resource_id = $1", str(user.id))
    assert row is not None
    assert (row["actor_kind"], row["action"], row["after"]["is_superuser"]) == ("operator", "user.register", True)


async def test_a_superusers_account_is_held_to_the_rules(ctx: Context) -> None:
    with pytest.raises(Invalid) as caught:
        await service.create_superuser(ctx, email="nowhere", username="a", password="password")
    errors = caught.value.extra["errors"]
    assert isinstance(errors, dict)
    assert set(errors) == {"email", "username", "password"}


async def test_a_second_superuser_of_the_same_name_is_refused(ctx: Context, person: Person) -> None:
    with pytest.raises(EmailTaken):
        await service.create_superuser(ctx, email=person.email, username=uuid4().hex, password=PASSWORD)
    with pytest.raises(UsernameTaken):
        await service.create_superuser(
            ctx, email=f"{uuid4().hex}@example.com", username=person.username.upper(), password=PASSWORD
        )


async def test_if_missing_leaves_a_superuser_and_their_password_alone(
    client: aiohttp.ClientSession, ctx: Context
) -> None:
    name = f"root-{uuid4().hex[:12]}"
    users = await asyncio.gather(*(make(ctx, name, if_missing=True) for _ in range(5)))
    assert len({user.id for user in users}) == 1
    assert await make(ctx, name, password="something else entirely", if_missing=True) == users[0]
    assert (await log_in(client, f"{name}@example.com"))[0] == 200


async def test_if_missing_never_makes_an_existing_account_a_superuser(ctx: Context, person: Person) -> None:
    with pytest.raises(EmailTaken):
        await service.create_superuser(
            ctx, email=person.email, username=uuid4().hex, password=PASSWORD, if_missing=True
        )
    assert (await person.get("/api/v1/users/me"))["is_superuser"] is False
