"""Clients that write through the front door, insist on an answer, and keep a journal of what was acknowledged."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any
from uuid import uuid4

import aiohttp

from tests.support.people import PASSWORD

# While the database recovers, nothing can be acknowledged.
_INSIST_TIMEOUT_S = 60.0
_AGAIN_AFTER_S = 0.05
_REPLY_TIMEOUT = aiohttp.ClientTimeout(total=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """A movement of a wallet's money."""

    user_id: str
    kind: str
    amount: str


@dataclass(slots=True)
class Journal:
    """What clients were told, and what they gave up on and so do not know the end of."""

    movements: dict[str, Movement] = field(default_factory=dict)  # by the ledger transaction's id
    purchases: dict[str, Movement] = field(default_factory=dict)  # by the token's id
    refunds: dict[str, Movement] = field(default_factory=dict)  # by the token's id
    users: dict[str, str] = field(default_factory=dict)  # id by name
    given_up: Counter[Movement] = field(default_factory=Counter)
    lost_replies: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    replayed: int = 0
    progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def size(self) -> int:
        """How many writes were acknowledged."""
        return len(self.movements) + len(self.purchases) + len(self.refunds) + len(self.users)

    async def grow_by(self, writes: int) -> None:
        """Wait for so many more acknowledged writes."""
        goal = self.size + writes
        async with self.progress:
            await self.progress.wait_for(lambda: self.size >= goal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a client was told, in the end."""

    status: int
    body: Any
    is_replay: bool
    attempts: int = 1  # the earlier ones may have been carried out, too, and their answers lost


class Client:
    """One client, whose people come one after the other: each registers, tops up, buys, gives back and is corrected."""

    # No two amounts are the same, so that a movement whose answer nobody got can be told from all others.
    _cents = count(10_000)

    def __init__(self, url: str, *, journal: Journal, superuser_token: str, seed: int) -> None:
        self._url, self._journal, self._superuser_token = url, journal, superuser_token
        self._chance = random.Random(seed)
        self.stop = asyncio.Event()

    async def run(self) -> None:
        """Write until told to stop; what was begun then is insisted on to its end."""
        while not self.stop.is_set():
            name = f"user-{uuid4().hex[:12]}"
            user_id, token = await self._register(name)
            await self._move(user_id, token, "deposit", insist=True)  # the purchases are to succeed
            for _ in range(3):
                if self.stop.is_set():
                    return
                await self._move(user_id, token, "deposit")
                access_token = await self._buy(user_id, token)
                await self._move(user_id, self._superuser_token, "adjustment")
                if self._chance.random() < 0.7:
                    await self._refund(user_id, token, *access_token)

    async def _register(self, name: str) -> tuple[str, str]:
        account = {"email": f"{name}@example.com", "username": name, "password": PASSWORD}
        answer = await self._insist("POST", "/api/v1/auth/register", json=account)
        # Registration takes no key: the second time the name is taken, which says that the first was carried out.
        assert answer.status == 201 or (answer.status == 409 and answer.attempts > 1), answer
        login = await self._insist("POST", "/api/v1/auth/login", json={"email": account["email"], "password": PASSWORD})
        assert login.status == 200, login
        token = login.body["access_token"]
        me = await self._insist("GET", "/api/v1/users/me", token=token)
        user_id: str = me.body["id"]
        assert answer.status == 409 or answer.body["id"] == user_id
        await self._note(self._journal.users, name, user_id)
        return user_id, token

    async def _move(self, user_id: str, token: str, kind: str, *, insist: bool = False) -> None:
        cents = next(self._cents)
        amount = f"{cents // 100}.{cents % 100:02}"
        movement = Movement(user_id=user_id, kind=kind, amount=amount)
        if kind == "deposit":
            path, body = "/api/v1/currency/mock-purchase", {"amount": amount}
        else:
            path, body = f"/api/v1/admin/users/{user_id}/adjustments", {"amount": amount, "reason": "A correction"}
        ask = self._insist if insist or self._chance.random() < 0.7 else self._ask
        answer = await ask("POST", path, token=token, json=body, key=uuid4().hex)
        if answer is None:
            self._journal.given_up[movement] += 1
            return
        assert answer.status == 201, answer
        assert answer.body["amount"] == amount
        await self._note(self._journal.movements, answer.body["id"], movement)

    async def _buy(self, user_id: str, token: str) -> tuple[str, str]:
        answer = await self._insist(
            "POST", "/api/v1/tokens/purchase", token=token, json={"duration_hours": 1}, key=uuid4().hex
        )
        assert answer.status == 201, answer
        token_id, price = answer.body["id"], answer.body["cost_znc"]
        await self._note(
            self._journal.purchases, token_id, Movement(user_id=user_id, kind="purchase", amount=f"-{price}")
        )
        return token_id, price

    async def _refund(self, user_id: str, token: str, token_id: str, price: str) -> None:
        answer = await self._insist("DELETE", f"/api/v1/tokens/{token_id}", token=token)
        # A refund takes no key either: the second time the token has ended. The first time may be hidden from us, since
        # aiohttp's client itself repeats a DELETE whose connection was lost.
        assert answer.status == 200 or answer.body["code"] == "token_ended", answer
        assert answer.status == 409 or answer.body["refund_amount"] == price
        await self._note(self._journal.refunds, token_id, Movement(user_id=user_id, kind="refund", amount=price))

    async def _note(self, part: dict[str, Any], key: str, entry: object) -> None:
        assert key not in part, f"{key} was acknowledged twice"
        part[key] = entry
        async with self._journal.progress:
            self._journal.progress.notify_all()

    async def _insist(self, method: str, path: str, **request: Any) -> Answer:
        """Send the same request, with the same key, until there is an answer that says how it ended."""
        attempts = 1
        async with asyncio.timeout(_INSIST_TIMEOUT_S):
            while (answer := await self._ask(method, path, **request)) is None:
                attempts += 1
                await asyncio.sleep(_AGAIN_AFTER_S)
        self._journal.replayed += answer.is_replay
        return replace(answer, attempts=attempts)

    async def _ask(
        self, method: str, path: str, *, token: str | None = None, key: str | None = None, json: object = None
    ) -> Answer | None:
        """Send a request once; None when its answer was lost, or says nothing about how it ended."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        # A connection for each request, so that the processes share them out.
        connector = aiohttp.TCPConnector(force_close=True)
        try:
            async with (
                aiohttp.ClientSession(self._url, connector=connector, timeout=_REPLY_TIMEOUT) as client,
                client.request(method, path, headers=headers, json=json) as response,
            ):
                body = await response.json()
        except (aiohttp.ClientError, OSError):  # a timeout is an OSError
            self._journal.lost_replies += 1
            return None
        # The outcome of what was refused with 503 is open: the database may be lost between a commit and its answer.
        if response.status == 503 or body.get("code") == "idempotency_in_progress":
            self._journal.refused[response.status] += 1
            return None
        return Answer(status=response.status, body=body, is_replay="Idempotency-Replayed" in response.headers)
