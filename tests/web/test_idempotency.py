"""Idempotency keys through the front door: one effect, the same answer, and nothing to read in the database."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import pytest

from tests.support.inprocess import run_app
from tests.support.people import PASSWORD, Person, register
from tests.support.servers import Cluster
from tests.wallet.ledger import credit, debit, until_a_lock_is_waited_for
from zenzefi.context import Context, open_context
from zenzefi.settings import Settings
from zenzefi.wallet.models import MAX_BALANCE
from zenzefi.web.idempotency import KEPT_FOR, PURGE_BATCH_ROWS, purge_idempotency_keys

MOCK_PURCHASE = "/api/v1/currency/mock-purchase"


async def send(person: Person, key: str, body: str = '{"amount": "5.00"}') -> tuple[int, bytes, bool, str | None]:
    """Top up with a key: status, body, whether it is a replay, and Retry-After."""
    headers = {**person.headers, "Idempotency-Key": key, "Content-Type": "application/json"}
    async with person.client.post(MOCK_PURCHASE, data=body.encode(), headers=headers) as response:
        is_replay = response.headers.get("Idempotency-Replayed") == "true"
        return response.status, await response.read(), is_replay, response.headers.get("Retry-After")


async def code_of(person: Person, key: str, body: str = '{"amount": "5.00"}') -> tuple[int, str]:
    """Status and problem code of a request that is refused."""
    status, answer, _, _ = await send(person, key, body)
    return status, json.loads(answer)["code"]


@pytest.fixture
async def superuser(cluster: Cluster, database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection that may change stored answers, which the application may not."""
    connection = await cluster.connect(database)
    yield connection
    await connection.close()


async def test_repeated_request_gets_the_first_answer_byte_for_byte(person: Person) -> None:
    key = uuid4().hex
    first = await send(person, key)
    assert (first[0], first[2]) == (201, False)
    again = await send(person, key)
    assert again[:3] == (201, first[1], True)
    assert await person.balance() == "5.00"


async def test_requests_without_a_key_or_with_their_own_each_count(person: Person) -> None:
    await person.top_up("5.00")
    await person.top_up("5.00")
    await send(person, uuid4().hex)
    await send(person, uuid4().hex)
    assert await person.balance() == "20.00"


@pytest.mark.parametrize("second", ['{"amount": "5.01"}', '{"amount": "5.0"}', '{"amount": 5}'])
async def test_key_of_another_body_is_refused(person: Person, second: str) -> None:
    key = uuid4().hex
    assert (await send(person, key, '{"amount": "5.00"}'))[0] == 201
    assert await code_of(person, key, second) == (422, "idempotency_key_reused")
    assert await person.balance() == "5.00"


@pytest.mark.parametrize("second", ['\n{ "amount" :\t"5.00" }', '{"amount":5.00}'])
async def test_notation_of_the_body_does_not_matter(person: Person, second: str) -> None:
    key = uuid4().hex
    first = await send(person, key, '{"amount": "5.00"}')
    assert (await send(person, key, second))[:3] == (201, first[1], True)


async def test_key_of_another_path_is_refused(person: Person) -> None:
    key = uuid4().hex
    assert (await send(person, key))[0] == 201
    status, problem = await person.request(
        "POST", f"{MOCK_PURCHASE}?again", json={"amount": "5.00"}, headers={"Idempotency-Key": key}
    )
    assert (status, problem["code"]) == (422, "idempotency_key_reused")


async def test_keys_of_two_people_do_not_meet(client: aiohttp.ClientSession, person: Person) -> None:
    key, stranger = uuid4().hex, await register(client)
    mine, theirs = await send(person, key), await send(stranger, key)
    assert (mine[0], mine[2], theirs[0], theirs[2]) == (201, False, 201, False)
    assert mine[1] != theirs[1]


@pytest.mark.parametrize("key", ["", " ", "a b", "ключ", "x" * 256, "a\tb"])
async def test_bad_key_is_400(person: Person, key: str) -> None:
    assert await code_of(person, key) == (400, "bad_idempotency_key")
    assert await person.balance() == "0.00"


async def test_two_keys_are_400(person: Person) -> None:
    headers = [*person.headers.items(), ("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
    async with person.client.post(MOCK_PURCHASE, json={"amount": "5.00"}, headers=headers) as response:
        assert (response.status, (await response.json())["code"]) == (400, "bad_idempotency_key")


@pytest.mark.parametrize("key", ["!", "x" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "~"])
async def test_key_may_be_any_visible_ascii(person: Person, key: str) -> None:
    first = await send(person, key)
    assert (await send(person, key))[:3] == (201, first[1], True)


async def test_refused_request_is_not_kept_and_may_succeed_later(person: Person, ctx: Context) -> None:
    key, user_id = uuid4().hex, UUID(person.user_id)
    await credit(ctx, user_id, MAX_BALANCE)
    assert await code_of(person, key) == (409, "wallet_full")
    await debit(ctx, user_id, MAX_BALANCE)
    assert (await send(person, key))[0:3:2] == (201, False)


async def test_request_in_flight_is_409_and_then_replayed(person: Person, ctx: Context) -> None:
    key = uuid4().hex
    await person.top_up("1.00")
    async with ctx.transaction() as conn:
        await conn.execute("SELECT 1 FROM ledger_accounts WHERE user_id = $1 FOR UPDATE", UUID(person.user_id))
        running = asyncio.create_task(send(person, key))
        await until_a_lock_is_waited_for(ctx)
        status, problem, _, retry_after = await send(person, key)
        assert (status, json.loads(problem)["code"], retry_after) == (409, "idempotency_in_progress", "1")
        assert not running.done()
    first = await running
    assert first[0] == 201
    assert (await send(person, key))[:3] == (201, first[1], True)
    assert await person.balance() == "6.00"


async def test_request_in_flight_holds_up_nobody_elses_key(
    client: aiohttp.ClientSession, person: Person, ctx: Context
) -> None:
    key, stranger = uuid4().hex, await register(client)
    await person.top_up("1.00")
    async with ctx.transaction() as conn:
        await conn.execute("SELECT 1 FROM ledger_accounts WHERE user_id = $1 FOR UPDATE", UUID(person.user_id))
        running = asyncio.create_task(send(person, key))
        await until_a_lock_is_waited_for(ctx)
        assert (await send(stranger, key))[0] == 201
    assert (await running)[0] == 201


async def test_answer_is_kept_for_a_day_and_no_longer(
    person: Person, ctx: Context, superuser: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    key = uuid4().hex
    first = await send(person, key)
    move = "UPDATE idempotency_keys SET created_at = $2 WHERE user_id = $1"
    await superuser.execute(move, UUID(person.user_id), ctx.now() - KEPT_FOR + timedelta(minutes=1))
    assert (await send(person, key))[:3] == (201, first[1], True)
    await superuser.execute(move, UUID(person.user_id), ctx.now() - KEPT_FOR)
    assert (await send(person, key, '{"amount": "1.00"}'))[0:3:2] == (201, False)
    assert (await send(person, key, '{"amount": "1.00"}'))[0:3:2] == (201, True)
    assert await person.balance() == "6.00"


async def test_purge_deletes_only_what_is_older_than_a_day(
    person: Person, ctx: Context, superuser: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    key, rows = uuid4().hex, 2 * PURGE_BATCH_ROWS + 1
    first = await send(person, key)
    await superuser.execute(
        """
        INSERT INTO idempotency_keys
            (user_id, key_hash, request_hash, response_status, sealed_response, created_at)
        SELECT $1, sha256(number::text::bytea), '', 201, '', $2 FROM generate_series(1, $3::integer) AS number
        """,
        UUID(person.user_id),
        ctx.now() - KEPT_FOR,
        rows,
    )
    assert await purge_idempotency_keys(ctx) == rows
    assert await purge_idempotency_keys(ctx) == 0
    assert (await send(person, key))[:3] == (201, first[1], True)


async def test_database_shows_neither_key_nor_answer(person: Person, ctx: Context) -> None:
    key = uuid4().hex
    _, answer, _, _ = await send(person, key)
    row = await _stored_row(ctx, person)
    assert row["key_hash"] == hashlib.sha256(key.encode()).digest()
    stored = b"".join(value if isinstance(value, bytes) else str(value).encode() for value in row.values())
    for secret in (key.encode(), answer, json.loads(answer)["id"].encode(), b"balance_after"):
        assert secret not in stored
        assert base64.b64encode(secret) not in stored


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE idempotency_keys SET response_status = 200 WHERE user_id = $1",
        """
        UPDATE idempotency_keys SET sealed_response = set_byte(sealed_response, 20, 255 - get_byte(sealed_response, 20))
        WHERE user_id = $1
        """,
        """
        UPDATE idempotency_keys SET sealed_response = (
            SELECT sealed_response FROM idempotency_keys WHERE user_id <> $1 LIMIT 1
        ) WHERE user_id = $1
        """,
    ],
    ids=["status", "byte", "another person's"],
)
async def test_answer_that_was_tampered_with_is_not_told(
    client: aiohttp.ClientSession,
    person: Person,
    superuser: "asyncpg.Connection[asyncpg.Record]",
    tampering: str,
) -> None:
    key = uuid4().hex
    await send(person, key)
    await send(await register(client), key)
    await superuser.execute(tampering, UUID(person.user_id))
    assert await code_of(person, key) == (409, "idempotent_answer_lost")
    assert await person.balance() == "5.00"


async def test_answer_is_lost_but_not_repeated_when_the_secret_has_changed(person: Person, env: dict[str, str]) -> None:
    key = uuid4().hex
    await send(person, key)
    changed = Settings.from_env({**env, "SECRET_KEY": "another-secret-key-of-the-tests-9876543210"})
    async with open_context(changed) as ctx, run_app(ctx) as url, aiohttp.ClientSession(url) as client:
        login = {"email": person.email, "password": PASSWORD}
        async with client.post("/api/v1/auth/login", json=login) as response:
            token = (await response.json())["access_token"]
        moved = Person(
            client=client,
            user_id=person.user_id,
            email=person.email,
            username=person.username,
            access_token=token,
            refresh_token="",
        )
        assert await code_of(moved, key) == (409, "idempotent_answer_lost")
    assert await person.balance() == "5.00"


async def _stored_row(ctx: Context, person: Person) -> dict[str, Any]:
    async with ctx.connection() as conn:
        row = await conn.fetchrow("SELECT * FROM idempotency_keys WHERE user_id = $1", UUID(person.user_id))
    assert row is not None
    return dict(row)
