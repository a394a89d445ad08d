"""People who use the product for as long as the monitoring is looked at: a bounded load of all that they do."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import uuid4

import aiohttp

from deploy.checks.failures import CheckFailed

_PASSWORD: Final = "a long walk at night"  # noqa: S105  of people who live for a minute
_RETURN_URL: Final = "https://127.0.0.1/"
_PEOPLE: Final = 3
_PAUSE_S: Final = 0.1  # some tens of requests a second in all: enough for every rate, and little for two cores
_TIMEOUT: Final = aiohttp.ClientTimeout(total=20)


@contextlib.asynccontextmanager
async def generate_traffic(base_url: str) -> AsyncIterator[None]:
    """Have people use the product meanwhile; raises CheckFailed when the product refuses what it should not."""
    async with aiohttp.ClientSession(base_url=base_url, timeout=_TIMEOUT) as client:
        people = [await _Person.register(client) for _ in range(_PEOPLE)]
        tokens = [await person.buy() for person in people]
        tasks = [asyncio.ensure_future(one.live(token)) for one, token in zip(people, tokens, strict=True)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _Person:
    """Somebody who tops up, buys, uses, gives back, and makes mistakes."""

    def __init__(self, client: aiohttp.ClientSession, jwt: str) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {jwt}"}

    @classmethod
    async def register(cls, client: aiohttp.ClientSession) -> "_Person":
        name = f"user-{uuid4().hex[:12]}"
        credentials = {"email": f"{name}@example.com", "password": _PASSWORD}
        await _post(client, "/api/v1/auth/register", {**credentials, "username": name}, expected=201)
        login = await _post(client, "/api/v1/auth/login", credentials, expected=200)
        await _post(client, "/api/v1/auth/login", {**credentials, "password": "not the password"}, expected=401)
        return cls(client, login["access_token"])

    async def live(self, token: str) -> None:
        """Use the product until cancelled; the upstream may be away meanwhile."""
        for step in itertools.count():
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await self._use(token, step)
            await asyncio.sleep(_PAUSE_S)

    async def buy(self) -> str:
        """Top up, buy two tokens, give one back; the other one."""
        await self._post("/api/v1/currency/mock-purchase", {"amount": "50.00"})
        await self._post("/api/v1/currency/purchase", {"amount_znc": "10.00", "return_url": _RETURN_URL})
        returned = await self._post("/api/v1/tokens/purchase", {"duration_hours": 1})
        async with self._client.delete(f"/api/v1/tokens/{returned['id']}", headers=self._headers) as response:
            response.raise_for_status()
        return str((await self._post("/api/v1/tokens/purchase", {"duration_hours": 24}))["token"])

    async def _use(self, token: str, step: int) -> None:
        """A round of requests through the gateway, and now and then one of the API or a mistake."""
        holder = {"X-Access-Token": token, "X-Device-ID": "device-0001"}
        await self._get("/api/v1/proxy/hello", holder)
        await self._get("/api/v1/proxy/status/404", holder)
        if step % 10 == 0:
            await self._get("/api/v1/currency/balance", self._headers)
            await self._get("/api/v1/proxy/status/500", holder)  # the upstream's own fault
            await self._get("/api/v1/proxy/hello", {**holder, "X-Device-ID": "device-0002"})
            await self._get("/api/v1/proxy/hello", {**holder, "X-Access-Token": "no token"})
            await self._get(f"/no/such/path/{uuid4()}", {})

    async def _get(self, path: str, headers: dict[str, str]) -> None:
        async with self._client.get(path, headers=headers) as response:
            await response.read()

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        return await _post(self._client, path, body, expected=201, headers=self._headers)


async def _post(
    client: aiohttp.ClientSession,
    path: str,
    body: dict[str, Any],
    *,
    expected: int,
    headers: dict[str, str] | None = None,
) -> Any:
    async with client.post(path, json=body, headers=headers) as response:
        if response.status != expected:
            raise CheckFailed(f"POST {path} was answered {response.status}: {await response.text()}")
        return await response.json(content_type=None)
