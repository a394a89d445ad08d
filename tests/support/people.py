"""People of the tests: registered, signed in and funded through the front door."""

from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody with an account and a login."""

    client: aiohttp.ClientSession
    user_id: str
    email: str
    username: str
    password: str = field(repr=False, default=PASSWORD)
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What a request of theirs carries."""
        return {"Authorization": f"Bearer {self.access_token}"}

    async def request(self, method: str, path: str, **kwargs: Any) -> tuple[int, Any]:
        """Status and JSON body of one request of theirs."""
        headers = {**self.headers, **kwargs.pop("headers", {})}
        async with self.client.request(method, path, headers=headers, **kwargs) as response:
            body = await response.json(content_type=None) if response.status != 204 else None
            return response.status, body

    async def get(self, path: str, **kwargs: Any) -> Any:
        """The JSON body of a GET that succeeds."""
        status, body = await self.request("GET", path, **kwargs)
        assert status == 200, (status, body)
        return body

    async def top_up(self, amount: str) -> Any:
        """Money from the mock provider."""
        status, body = await self.request("POST", "/api/v1/currency/mock-purchase", json={"amount": amount})
        assert status == 201, (status, body)
        return body

    async def balance(self) -> str:
        """The wallet's balance."""
        balance: str = (await self.get("/api/v1/currency/balance"))["balance"]
        return balance

    async def buy_token(self, hours: int = 1, **body: Any) -> Any:
        """A new access token, its string included."""
        status, answer = await self.request("POST", "/api/v1/tokens/purchase", json={"duration_hours": hours, **body})
        assert status == 201, (status, answer)
        return answer


async def register(client: aiohttp.ClientSession, *, name: str | None = None, ref: str | None = None) -> Person:
    """A new person, signed in; `ref` is the referral code that they came by."""
    username = name or f"user-{uuid4().hex[:12]}"
    account = {"email": f"{username}@example.com", "username": username, "password": PASSWORD}
    query = {} if ref is None else {"ref": ref}
    async with client.post("/api/v1/auth/register", params=query, json=account) as response:
        assert response.status == 201, await response.text()
        user = await response.json()
    async with client.post("/api/v1/auth/login", json={"email": account["email"], "password": PASSWORD}) as response:
        assert response.status == 200, await response.text()
        login = await response.json()
    return Person(
        client=client,
        user_id=user["id"],
        email=account["email"],
        username=username,
        access_token=login["access_token"],
        refresh_token=login["refresh_token"],
    )


def gateway_headers(token: str, device: str = "device-0001") -> dict[str, str]:
    """The credentials of a proxied request."""
    return {"X-Access-Token": token, "X-Device-ID": device}
