"""A request of every API route, again and again, with what each needs to succeed made beforehand by other requests."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final

import aiohttp

from loadtest.load import request
from loadtest.people import Person
from zenzefi.errors import JsonObject

# Why a route is not asked: it is no client's, or what it does is not the database's work.
NOT_ASKED: Final = {
    "POST /api/v1/webhooks/payments/{provider}": "a provider's, and signed by it",
    "GET /api/v1/admin/backups": "reads the bucket",
    "POST /api/v1/admin/backups": "puts a job into the queue",
}
_BUNDLE: Final = "00000000-0000-7000-8000-000000000101"  # of migration 0009


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Who asks, as which request of a run, and what was made for this one, if anything."""

    person: Person
    serial: str
    made: str = ""

    def fill(self, text: str) -> str:
        """A path with all that stands in braces put in."""
        known = {"{made}": self.made, "{serial}": self.serial, "{user_id}": self.person.user_id}
        for name, value in {**known, "{username}": self.person.email.partition("@")[0]}.items():
            text = text.replace(name, value)
        return text


Body = Callable[[Asking], JsonObject] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """A request whose answer's `field` the probe's own request is about."""

    path: str
    body: Body
    field: str
    as_superuser: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A route, and one way of asking it. `path` is the route's own unless something has to be put in."""

    route: str
    path: str = ""
    body: Body = None
    making: Making | None = None
    as_superuser: bool = False
    through_gateway: bool = False

    @property
    def name(self) -> str:
        """The route, and the query that tells this probe from others of it."""
        _, _, query = self.path.partition("?")
        return self.route + (f"?{query}" if query else "")

    @property
    def method(self) -> str:
        """The request's method."""
        return self.route.partition(" ")[0].replace("*", "GET")

    @property
    def target(self) -> str:
        """The request's path."""
        return self.path or self.route.partition(" ")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One installation, and the people in it."""

    url: str
    people: Sequence[Person]
    superuser: dict[str, str]

    async def requests(self, probe: Probe, count: int) -> list[bytes]:
        """So many requests of one person after another, each with something of its own where it needs that."""
        found = []
        async with aiohttp.ClientSession() as client:
            for person in islice(cycle(self.people), count):
                asking = Asking(person=person, serial=secrets.token_hex(6))
                if probe.making is not None:
                    made = await self._make(client, probe.making, asking)
                    asking = Asking(person=person, serial=asking.serial, made=made)
                found.append(
                    request(
                        probe.method,
                        self.url + asking.fill(probe.target),
                        headers=self._headers(probe, person),
                        body=None if probe.body is None else probe.body(asking),
                    )
                )
        return found

    def _headers(self, probe: Probe, person: Person) -> dict[str, str]:
        if probe.through_gateway:
            return person.gateway_headers
        return self.superuser if probe.as_superuser else person.api_headers

    async def _make(self, client: aiohttp.ClientSession, making: Making, asking: Asking) -> str:
        headers = self.superuser if making.as_superuser else asking.person.api_headers
        body = None if making.body is None else making.body(asking)
        async with client.post(self.url + making.path, headers=headers, json=body) as response:
            response.raise_for_status()
            return str((await response.json())[making.field])


def _sign_in(asking: Asking) -> JsonObject:
    return {"email": asking.person.email, "password": asking.person.password}


def _register(asking: Asking) -> JsonObject:
    name = f"probe-{asking.serial}"
    return {"email": f"{name}@example.com", "username": name, "password": asking.person.password}


def _refresh(asking: Asking) -> JsonObject:
    return {"refresh_token": asking.made}


def _hour(_asking: Asking) -> JsonObject:
    return {"duration_hours": 1}


def _bundle(asking: Asking) -> JsonObject:
    return {"name": f"Probe {asking.serial}", "token_count": 2, "duration_hours": 1}


def _payment(_asking: Asking) -> JsonObject:
    return {"amount_znc": "10.00", "return_url": "https://127.0.0.1:8000/"}


_LOGIN = Making(path="/api/v1/auth/login", body=_sign_in, field="refresh_token")
_TOKEN = Making(path="/api/v1/tokens/purchase", body=_hour, field="id")
_NEW_BUNDLE = Making(path="/api/v1/bundles", body=_bundle, field="id", as_superuser=True)
_NEW_PAYMENT = Making(path="/api/v1/currency/purchase", body=_payment, field="payment_id")

PROBES: Final = (
    Probe(route="GET /health"),
    Probe(route="POST /api/v1/auth/register", body=_register),
    Probe(route="POST /api/v1/auth/login", body=_sign_in),
    Probe(route="POST /api/v1/auth/refresh", body=_refresh, making=_LOGIN),
    Probe(route="POST /api/v1/auth/logout", body=_refresh, making=_LOGIN),
    Probe(route="GET /api/v1/users/me"),
    Probe(route="PATCH /api/v1/users/me", body=lambda asking: {"full_name": f"Probe {asking.serial}"}),
    Probe(route="GET /api/v1/users/me/referrals"),
    Probe(route="GET /api/v1/users/me/usage"),
    Probe(route="GET /api/v1/users/me/usage", path="/api/v1/users/me/usage?bucket=hour"),
    Probe(route="GET /api/v1/currency/balance"),
    Probe(route="GET /api/v1/currency/transactions"),
    Probe(
        route="GET /api/v1/currency/transactions",
        path="/api/v1/currency/transactions?transaction_type=purchase&limit=5",
    ),
    Probe(route="POST /api/v1/currency/mock-purchase", body=lambda _: {"amount": "10.00"}),
    Probe(route="POST /api/v1/currency/purchase", body=_payment),
    Probe(
        route="GET /api/v1/currency/payments/{payment_id}",
        path="/api/v1/currency/payments/{made}",
        making=_NEW_PAYMENT,
    ),
    Probe(route="GET /api/v1/tokens/my-tokens"),
    Probe(route="GET /api/v1/tokens/my-tokens", path="/api/v1/tokens/my-tokens?active_only=false&limit=5"),
    Probe(route="POST /api/v1/tokens/purchase", body=_hour),
    Probe(route="GET /api/v1/tokens/{token_id}", path="/api/v1/tokens/{made}", making=_TOKEN),
    Probe(route="DELETE /api/v1/tokens/{token_id}", path="/api/v1/tokens/{made}", making=_TOKEN),
    Probe(route="POST /api/v1/tokens/{token_id}/rotate", path="/api/v1/tokens/{made}/rotate", making=_TOKEN),
    Probe(
        route="POST /api/v1/tokens/{token_id}/release-device",
        path="/api/v1/tokens/{made}/release-device",
        making=_TOKEN,
    ),
    Probe(route="GET /api/v1/tokens/{token_id}/sessions", path="/api/v1/tokens/{made}/sessions", making=_TOKEN),
    Probe(route="GET /api/v1/bundles"),
    Probe(route="GET /api/v1/bundles/{bundle_id}", path=f"/api/v1/bundles/{_BUNDLE}"),
    Probe(route="POST /api/v1/bundles/{bundle_id}/purchase", path=f"/api/v1/bundles/{_BUNDLE}/purchase"),
    Probe(route="POST /api/v1/bundles", body=_bundle, as_superuser=True),
    Probe(
        route="PATCH /api/v1/bundles/{bundle_id}",
        path="/api/v1/bundles/{made}",
        body=lambda _: {"token_count": 3},
        making=_NEW_BUNDLE,
        as_superuser=True,
    ),
    Probe(
        route="DELETE /api/v1/bundles/{bundle_id}",
        path="/api/v1/bundles/{made}",
        making=_NEW_BUNDLE,
        as_superuser=True,
    ),
    Probe(route="GET /api/v1/proxy/status", through_gateway=True),
    Probe(route="* /api/v1/proxy/{path:.*}", path="/api/v1/proxy/certificates/filter", through_gateway=True),
    Probe(route="GET /api/v1/admin/users", as_superuser=True),
    Probe(route="GET /api/v1/admin/users", path="/api/v1/admin/users?search={username}", as_superuser=True),
    Probe(route="GET /api/v1/admin/users", path="/api/v1/admin/users?is_active=false", as_superuser=True),
    Probe(
        route="PATCH /api/v1/admin/users/{user_id}",
        path="/api/v1/admin/users/{user_id}",
        body=lambda _: {"is_active": True},
        as_superuser=True,
    ),
    Probe(
        route="POST /api/v1/admin/users/{user_id}/adjustments",
        path="/api/v1/admin/users/{user_id}/adjustments",
        body=lambda _: {"amount": "1.00", "reason": "Probe"},
        as_superuser=True,
    ),
    Probe(route="GET /api/v1/admin/tokens", as_superuser=True),
    Probe(route="GET /api/v1/admin/tokens", path="/api/v1/admin/tokens?active_only=false", as_superuser=True),
    Probe(route="GET /api/v1/admin/tokens", path="/api/v1/admin/tokens?user_id={user_id}&limit=5", as_superuser=True),
    Probe(
        route="DELETE /api/v1/admin/tokens/{token_id}",
        path="/api/v1/admin/tokens/{made}?refund=true",
        making=_TOKEN,
        as_superuser=True,
    ),
    Probe(route="GET /api/v1/admin/audit-logs", as_superuser=True),
    Probe(
        route="GET /api/v1/admin/audit-logs",
        path="/api/v1/admin/audit-logs?user_id={user_id}&limit=5",
        as_superuser=True,
    ),
    Probe(
        route="GET /api/v1/admin/audit-logs", path="/api/v1/admin/audit-logs?action=token.purchase", as_superuser=True
    ),
    Probe(
        route="GET /api/v1/admin/ratelimits/{limit_class}/{subject}",
        path="/api/v1/admin/ratelimits/api/{user_id}",
        as_superuser=True,
    ),
    Probe(
        route="DELETE /api/v1/admin/ratelimits/{limit_class}/{subject}",
        path="/api/v1/admin/ratelimits/api/{user_id}",
        as_superuser=True,
    ),
)
