"""People who use the product while its instances are replaced, and who go to these as nginx would send them.

What they pay in they send with an Idempotency-Key. When a connection breaks before the answer, nobody but them may send
it again: an idle connection that is closed in the very moment of its use breaks so, whatever a server does. In the end
the balance tells whether each payment was taken exactly once.
"""

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import aiohttp

from deploy.checks.failures import CheckFailed

_VISITORS: Final = 3
_PAUSE_S: Final = 0.06  # fifty requests a second in all: two cores have processes to start, too
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)
_ATTEMPTS: Final = 3
_BALANCE: Final = "/api/v1/currency/balance"
_BROKEN: Final = "the connection broke: "
_PAYMENT: Final = Decimal("0.01")
_PASSWORD: Final = "a long walk at night"  # noqa: S105  of somebody who lives for a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One of the things that visitors do, over and over."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, str] | None = None
    status: int = 200


@dataclass(slots=True)
class Visitors:
    """What the visitors met."""

    instances_file: Path
    answered: Counter[str] = field(default_factory=Counter)  # by image
    went_on: int = 0  # to another instance, by nginx
    sent_again: int = 0  # payments, by those who pay
    payments: int = 0
    failures: list[str] = field(default_factory=list)
    _turn: Any = field(default_factory=itertools.count)
    _is_over: bool = False

    @contextlib.asynccontextmanager
    async def visiting(self) -> AsyncIterator[None]:
        """Have them visit meanwhile."""
        async with aiohttp.ClientSession(timeout=_TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as client:
            requests = await _get_acquainted(client, self._instances()[0]["url"])
            before = await self._balance(client, requests)
            tasks = [asyncio.ensure_future(self._visit(client, requests)) for _ in range(_VISITORS)]
            try:
                yield
            finally:
                self._is_over = True
                ends = await asyncio.gather(*tasks, return_exceptions=True)
            paid = await self._balance(client, requests) - before
        for end in ends:
            if end is not None:
                raise CheckFailed(f"A visitor was lost: {end!r}")
        if paid != self.payments * _PAYMENT:
            raise CheckFailed(
                f"{self.payments} payments of {_PAYMENT} were acknowledged, and the balance rose by {paid}."
            )

    async def _visit(self, client: aiohttp.ClientSession, requests: list[Request]) -> None:
        for request in itertools.cycle(requests):
            if self._is_over:
                return
            failure = await (self._send(client, request, {}) if request.body is None else self._pay(client, request))
            if failure:
                self.failures.append(f"{request.method} {request.path}: {failure}")
            await asyncio.sleep(_PAUSE_S)

    async def _pay(self, client: aiohttp.ClientSession, request: Request) -> str:
        key = {"Idempotency-Key": str(uuid4())}
        for attempt in range(_ATTEMPTS):
            failure = await self._send(client, request, key)
            if not failure:
                self.payments += 1
                self.sent_again += attempt
                break
            if not failure.startswith(_BROKEN):
                break
        return failure

    async def _balance(self, client: aiohttp.ClientSession, requests: list[Request]) -> Decimal:
        request = next(request for request in requests if request.path == _BALANCE)
        async with client.get(self._instances()[0]["url"] + _BALANCE, headers=request.headers) as response:
            return Decimal((await response.json())["balance"])

    async def _send(self, client: aiohttp.ClientSession, request: Request, headers: Mapping[str, str]) -> str:
        """Send it to the next instance, and to another one where nginx would; returns what went wrong."""
        instances = self._instances()
        turn = next(self._turn)
        failure = "there is no instance"
        for number in range(len(instances)):
            instance = instances[(turn + number) % len(instances)]
            try:
                async with client.request(
                    request.method,
                    instance["url"] + request.path,
                    headers={**request.headers, **headers},
                    json=request.body,
                ) as response:
                    text = await response.text()
            except aiohttp.ClientConnectorError as error:
                failure = repr(error)  # nothing was sent: proxy_next_upstream error
            except (aiohttp.ClientError, TimeoutError) as error:
                failure = f"{_BROKEN}{error!r}"
                if request.method != "GET":
                    break  # non_idempotent is not set
            else:
                self.answered[instance["image"]] += 1
                self.went_on += number
                return "" if response.status == request.status else f"{response.status}: {text[:300]}"
        return failure

    def _instances(self) -> list[dict[str, str]]:
        instances = json.loads(self.instances_file.read_text(encoding="utf-8"))
        return [instance for instance in instances if instance["service"] == "web"]


async def _get_acquainted(client: aiohttp.ClientSession, url: str) -> list[Request]:
    """Register, pay in, buy a token; the requests that somebody with a token sends."""
    name = f"visitor-{uuid4().hex[:8]}"
    credentials = {"email": f"{name}@example.com", "password": _PASSWORD}
    await _post(client, f"{url}/api/v1/auth/register", {**credentials, "username": name}, status=201)
    login = await _post(client, f"{url}/api/v1/auth/login", credentials, status=200)
    owner = {"Authorization": f"Bearer {login['access_token']}"}
    await _post(client, f"{url}/api/v1/currency/mock-purchase", {"amount": "50.00"}, status=201, headers=owner)
    bought = await _post(client, f"{url}/api/v1/tokens/purchase", {"duration_hours": 24}, status=201, headers=owner)
    holder = {"X-Access-Token": bought["token"], "X-Device-ID": "device-0001"}
    return [
        Request(method="GET", path="/api/v1/proxy/hello", headers=holder),
        Request(method="GET", path=_BALANCE, headers=owner),
        Request(method="GET", path="/api/v1/proxy/hello", headers=holder),
        Request(
            method="POST",
            path="/api/v1/currency/mock-purchase",
            headers=owner,
            body={"amount": str(_PAYMENT)},
            status=201,
        ),
    ]


async def _post(
    client: aiohttp.ClientSession,
    url: str,
    body: Mapping[str, str | int],
    *,
    status: int,
    headers: Mapping[str, str] | None = None,
) -> Any:
    async with client.post(url, json=body, headers=headers) as response:
        if response.status != status:
            raise CheckFailed(f"POST {url} was answered {response.status}: {await response.text()}")
        return await response.json(content_type=None)
