"""POST /api/v1/auth/login, and what its access token is good for."""

import asyncio
import base64
import itertools
import json
import math
import statistics
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import jwt
import pytest
from argon2 import PasswordHasher as Argon2

from tests.support.accounts import ban, claims_of, log_in, probe, wait_until_blocked
from tests.support.people import PASSWORD, Person, register
from zenzefi.context import Context
from zenzefi.infra.jwt import Claims, JwtSigner
from zenzefi.infra.passwords import MAX_WAITING

LOGIN = "/api/v1/auth/login"
ME = "/api/v1/users/me"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was verified, and when."""

    encoded: str
    started: float
    ended: float


class RecordingArgon2:
    """argon2 as it is, with a note of when it worked; it may be kept from working for a while."""

    def __init__(self, argon2: Argon2) -> None:
        self._argon2 = argon2
        self.calls: list[Verification] = []
        self.may_work = threading.Event()
        self.may_work.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._argon2, name)

    def verify(self, encoded: str, password: str) -> bool:
        self.may_work.wait()
        started = time.perf_counter()
        try:
            return self._argon2.verify(encoded, password)
        finally:
            self.calls.append(Verification(encoded=encoded, started=started, ended=time.perf_counter()))


async def test_a_login_is_answered_with_a_jwt_and_a_refresh_token(
    client: aiohttp.ClientSession, person: Person
) -> None:
    async with client.post(LOGIN, json={"email": person.email, "password": PASSWORD}) as response:
        assert response.status == 200
        assert response.headers["Cache-Control"] == "no-store"
        pair = await response.json()
    assert set(pair) == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert (pair["token_type"], pair["expires_in"]) == ("bearer", 3600)
    assert pair["refresh_token"].startswith("znr_")
    assert len(pair["refresh_token"]) == 47
    assert jwt.get_unverified_header(pair["access_token"])["alg"] == "HS256"
    claims = claims_of(pair["access_token"])
    assert claims["sub"] == person.user_id
    assert claims["exp"] - claims["iat"] == 3600
    assert {"sid", "jti", "iss", "aud"} <= set(claims)
    assert await probe(client, pair["access_token"]) == 200


async def test_two_logins_share_neither_login_nor_token_id(client: aiohttp.ClientSession, person: Person) -> None:
    pairs = [(await log_in(client, person.email))[1] for _ in range(2)]
    claims = [claims_of(pair["access_token"]) for pair in pairs]
    for name in ("sid", "jti"):
        assert claims[0][name] != claims[1][name]


async def test_the_email_address_may_be_spelled_otherwise(client: aiohttp.ClientSession, person: Person) -> None:
    assert (await log_in(client, f" {person.email.upper()} "))[0] == 200


async def test_the_same_letters_composed_otherwise_are_the_same_password(client: aiohttp.ClientSession) -> None:
    name = uuid4().hex[:12]
    account = {"email": f"{name}@example.com", "username": name, "password": "caf\u00e9 au lait"}
    async with client.post("/api/v1/auth/register", json=account) as response:
        assert response.status == 201
    assert (await log_in(client, account["email"], "cafe\u0301 au lait"))[0] == 200


async def test_unknown_address_wrong_password_and_banned_user_are_answered_alike(
    client: aiohttp.ClientSession, ctx: Context, person: Person
) -> None:
    banned = await register(client)
    await ban(ctx, banned.user_id)
    answers = []
    for email, password in (
        ("nobody@example.com", PASSWORD),
        ("no address at all", PASSWORD),
        (person.email, "not my password"),
        (banned.email, PASSWORD),
    ):
        headers = {"X-Request-ID": "same"}
        async with client.post(LOGIN, json={"email": email, "password": password}, headers=headers) as response:
            seen = {name: value for name, value in response.headers.items() if name != "Date"}
            answers.append((response.status, seen, await response.read()))
    assert answers[0][0] == 401
    assert json.loads(answers[0][2])["code"] == "invalid_credentials"
    assert "WWW-Authenticate" in answers[0][1]
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.timeout(300)
async def test_unknown_address_wrong_password_and_banned_user_take_the_same_time(
    client: aiohttp.ClientSession, ctx: Context, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interleaved attempts of each kind: each hashes once, and their medians agree within 15 %.

    In time of the processor, of which other processes take nothing away, however busy the machine: nearly all of an
    attempt's is for its hash.
    """
    recorder = RecordingArgon2(ctx.passwords._argon2)
    monkeypatch.setattr(ctx.passwords, "_argon2", recorder)
    banned = await register(client)
    await ban(ctx, banned.user_id)
    attempts = {
        "unknown": ("nobody@example.com", PASSWORD),
        "wrong": (person.email, "not my password"),
        "banned": (banned.email, PASSWORD),
    }
    taken: dict[str, list[float]] = {kind: [] for kind in attempts}
    medians, spread = dict.fromkeys(attempts, 0.0), math.inf
    for rounds in range(1, 101):  # 20 suffice, unless the processor itself was of different speeds meanwhile
        for kind, (email, password) in attempts.items():
            hashes, started = len(recorder.calls), time.process_time()
            assert (await log_in(client, email, password))[0] == 401
            taken[kind].append(time.process_time() - started)
            (call,) = recorder.calls[hashes:]
            assert not ctx.passwords.needs_rehash(call.encoded), "a hash that costs something else"
        medians = {kind: statistics.median(values) for kind, values in taken.items()}
        spread = max(medians.values()) / min(medians.values()) - 1
        if rounds >= 20 and spread < 0.15:
            break
    assert spread < 0.15, medians


async def test_a_hash_of_weaker_parameters_is_upgraded_at_login(
    client: aiohttp.ClientSession, ctx: Context, person: Person
) -> None:
    weak = Argon2(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    user_id = UUID(person.user_id)
    async with ctx.transaction() as conn:
        await conn.execute("UPDATE users SET password_hash = $2 WHERE id = $1", user_id, weak)
    # All at once: one replaces the hash under the feet of the others, and yet each is right.
    answers = await asyncio.gather(*(log_in(client, person.email) for _ in range(8)))
    assert [status for status, _ in answers] == [200] * 8
    async with ctx.connection() as conn:
        stored = await conn.fetchval("SELECT password_hash FROM users WHERE id = $1", user_id)
    assert not ctx.passwords.needs_rehash(stored)
    assert (await log_in(client, person.email))[0] == 200
    assert (await log_in(client, person.email, "not my password"))[0] == 401


@pytest.mark.parametrize(
    "change", ["password_hash = '$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g'", "is_active = false"]
)
async def test_a_password_change_or_ban_in_the_midst_of_a_login_is_waited_for(
    client: aiohttp.ClientSession, ctx: Context, person: Person, change: str
) -> None:
    async with ctx.transaction() as conn:
        await conn.execute(f"UPDATE users SET {change} WHERE id = $1", UUID(person.user_id))
        login = asyncio.create_task(log_in(client, person.email))  # finds what was committed before
        await wait_until_blocked(ctx, login)
    status, problem = await login
    assert (status, problem["code"]) == (401, "invalid_credentials")


async def test_a_login_keeps_its_address_and_agent_and_is_audited(
    client: aiohttp.ClientSession, ctx: Context, person: Person
) -> None:
    body = {"email": person.email, "password": PASSWORD}
    async with client.post(LOGIN, json=body, headers={"User-Agent": "test-agent/1"}) as response:
        login_id = UUID(claims_of((await response.json())["access_token"])["sid"])
    async with ctx.connection() as conn:
        login = await conn.fetchrow("SELECT * FROM logins WHERE id = $1", login_id)
        audited = await conn.fetchrow("SELECT * FROM audit_log WHERE resource_id = $1", str(login_id))
    assert login is not None
    assert (str(login["ip"]), login["user_agent"], login["ended_at"]) == ("127.0.0.1", "test-agent/1", None)
    assert audited is not None
    assert (audited["action"], str(audited["actor_user_id"])) == ("login.open", person.user_id)


async def test_a_refresh_token_is_stored_as_its_hash_alone(ctx: Context, person: Person) -> None:
    async with ctx.connection() as conn:
        rows = await conn.fetch(
            "SELECT t::text AS text FROM refresh_tokens t JOIN logins ON logins.id = t.login_id WHERE user_id = $1",
            UUID(person.user_id),
        )
    assert len(rows) == 1
    assert person.refresh_token not in rows[0]["text"]


async def test_hashing_leaves_the_event_loop_free(
    client: aiohttp.ClientSession, ctx: Context, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop turns while a password is hashed. One that hashed by itself, or waited for the interpreter's lock
    meanwhile, would not turn once; one that shares a busy machine turns at least now and then.
    """
    recorder = RecordingArgon2(ctx.passwords._argon2)
    monkeypatch.setattr(ctx.passwords, "_argon2", recorder)
    logins = asyncio.gather(*(log_in(client, person.email) for _ in range(16)))
    turns = []
    while not logins.done():
        await asyncio.sleep(0)
        turns.append(time.perf_counter())
    assert [status for status, _ in await logins] == [200] * 16
    turned = [any(call.started < turn < call.ended for turn in turns) for call in recorder.calls]
    assert len(turned) == 16
    assert sum(turned) > 8


async def test_too_many_logins_at_once_are_told_to_come_back(
    client: aiohttp.ClientSession, ctx: Context, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = RecordingArgon2(ctx.passwords._argon2)
    monkeypatch.setattr(ctx.passwords, "_argon2", recorder)
    recorder.may_work.clear()  # or a quick machine might be done with some before the last have come
    too_many = 20
    logins = [asyncio.create_task(log_in(client, person.email, "-")) for _ in range(MAX_WAITING + too_many)]
    try:
        async with asyncio.timeout(30):
            refused = [await login for login in itertools.islice(asyncio.as_completed(logins), too_many)]
    finally:
        recorder.may_work.set()
    assert all(status == 503 and body["code"] == "overloaded" and body["retry_after"] > 0 for status, body in refused)
    statuses = [status for status, _ in await asyncio.gather(*logins)]
    assert (statuses.count(503), statuses.count(401)) == (too_many, MAX_WAITING)
    assert (await log_in(client, person.email))[0] == 200


def signed(ctx: Context, *, user_id: str, login_id: str, lifetime_s: int = 60, secret: str | None = None) -> str:
    signer = JwtSigner(secret or ctx.settings.secret_key, lifetime=timedelta(seconds=lifetime_s))
    claims = Claims(user_id=UUID(user_id), login_id=UUID(login_id))
    return signer.sign(claims, token_id=uuid4(), now=ctx.now())


async def test_forged_expired_and_foreign_access_tokens_are_401(
    client: aiohttp.ClientSession, ctx: Context, person: Person
) -> None:
    other = await register(client)
    own = claims_of(person.access_token)
    secret = ctx.settings.secret_key
    head, payload, _ = person.access_token.split(".")
    no_algorithm = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    bad = {
        "expired": signed(ctx, user_id=own["sub"], login_id=own["sid"], lifetime_s=-1),
        "another secret": signed(ctx, user_id=own["sub"], login_id=own["sid"], secret="x" * 40),
        "another's login": signed(ctx, user_id=own["sub"], login_id=claims_of(other.access_token)["sid"]),
        "no such login": signed(ctx, user_id=own["sub"], login_id=str(uuid4())),
        "no signature": f"{head}.{payload}.",
        "algorithm none": f"{no_algorithm}.{payload}.",
        "another audience": jwt.encode({**own, "aud": "elsewhere"}, secret, algorithm="HS256"),
        "another issuer": jwt.encode({**own, "iss": "elsewhere"}, secret, algorithm="HS256"),
        "another algorithm": jwt.encode(own, secret * 2, algorithm="HS512"),
        "no login": jwt.encode({k: v for k, v in own.items() if k != "sid"}, secret, algorithm="HS256"),
        "no expiry": jwt.encode({k: v for k, v in own.items() if k != "exp"}, secret, algorithm="HS256"),
        "odd subject": jwt.encode({**own, "sub": "me"}, secret, algorithm="HS256"),
        "odd login": jwt.encode({**own, "sid": 5}, secret, algorithm="HS256"),
        "a refresh token": person.refresh_token,
        "no token": "x",
        "not ASCII": "\u2603.\u2603.\u2603",
        "long": "x" * 4000,
    }
    statuses = {kind: await probe(client, token) for kind, token in bad.items()}
    assert set(statuses.values()) == {401}, statuses
    assert await probe(client, signed(ctx, user_id=own["sub"], login_id=own["sid"])) == 200


@pytest.mark.parametrize(
    "headers",
    [[], [("Authorization", "Basic eDp5")], [("Authorization", "Bearer")], [("Authorization", "Bearer ")], None],
)
async def test_requests_without_one_bearer_token_are_401(
    client: aiohttp.ClientSession, person: Person, headers: list[tuple[str, str]] | None
) -> None:
    twice = [("Authorization", f"Bearer {person.access_token}")] * 2
    async with client.get(ME, headers=twice if headers is None else headers) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert (await response.json(content_type=None))["code"] == "unauthenticated"
