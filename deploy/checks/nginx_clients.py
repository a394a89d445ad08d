"""Whom nginx takes a client for, how much it lets one ask, and how long it waits for a slow one."""

import asyncio
import contextlib
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final
from uuid import uuid4

import aiohttp

from deploy.checks.failures import require
from deploy.checks.nginx_servers import SERVER_NAME, Nginx
from deploy.checks.nginx_upstream import Upstream
from zenzefi.devstack.ports import LOOPBACK

TRUSTED_PROXY: Final = "127.0.0.31"
LOGINS_PER_ADDRESS: Final = 5  # the product's own limit, which must count the true address
_RATE, _BURST, _MANY = 10, 20, 100
_API: Final = "/api/v1/bundles"
_WEBHOOK: Final = "/api/v1/webhooks/payments/mock"
_FORGED: Final = "203.0.113.9"  # of a network for examples
_SLOW_S: Final = 30.0
_DRIP_S: Final = 1.0


async def check_addresses(nginx: Nginx, upstream: Upstream, holder: Mapping[str, str]) -> None:
    """What a client writes about its address counts nowhere: not in the log, the product, the upstream or a limit."""
    source = "127.0.0.21"
    forged = {
        "X-Forwarded-For": _FORGED,
        "X-Real-IP": _FORGED,
        "Forwarded": f"for={_FORGED}",
        "X-Forwarded-Proto": "http",
    }
    async with nginx.session(source=source) as client:
        async with client.get("/api/v1/proxy/note", headers={**holder, **forged}) as response:
            status = response.status
        faults = [] if status == 200 else [f"the gateway answers {status}"]
        if (seen := upstream.headers.get("X-Forwarded-For")) != source:
            faults.append(f"the upstream is told {seen}")
        if (scheme := upstream.headers.get("X-Forwarded-Proto")) != "https":
            faults.append(f"the upstream is told {scheme}")
        faults += [f"the upstream is told {name}" for name in ("Forwarded", "X-Real-IP") if name in upstream.headers]
        logins = [await _log_in(client, f"203.0.113.{number}") for number in range(LOGINS_PER_ADDRESS + 1)]
        if logins != [401] * LOGINS_PER_ADDRESS + [429]:
            faults.append(f"logins that forge an address each are answered {logins}")
    async with nginx.session(source="127.0.0.22") as client:
        if (status := await _log_in(client, source)) != 401:
            faults.append(f"a login of another address is answered {status}")
    if any("203.0.113." in str(one) for one in nginx.requests):
        faults.append("the access log has the forged address")
    require(faults, what="A forged address is believed")


async def check_trusted_proxy(nginx: Nginx, upstream: Upstream, holder: Mapping[str, str]) -> None:
    """A load balancer that is trusted says who the client is; what the client told it before does not count."""
    client_ip = "2001:db8:0:1::7"
    faults = []
    for source, expected in ((TRUSTED_PROXY, client_ip), ("127.0.0.32", "127.0.0.32")):
        headers = {**holder, "X-Forwarded-For": f"{_FORGED}, {client_ip}"}
        async with nginx.session(source=source) as client, client.get("/api/v1/proxy/note", headers=headers):
            if (seen := upstream.headers.get("X-Forwarded-For")) != expected:
                faults.append(f"the upstream is told {seen} of a client behind {source}")
    async with nginx.session(source=TRUSTED_PROXY) as client:
        one_network = await _ask_many(client, _API, lambda number: {"X-Forwarded-For": f"2001:db8:0:2::{number:x}"})
        many_networks = await _ask_many(client, _API, lambda number: {"X-Forwarded-For": f"2001:db8:1:{number:x}::1"})
    if not one_network[429]:
        faults.append(f"addresses of one IPv6 network are counted one by one: {dict(one_network)}")
    if many_networks[429]:
        faults.append(f"IPv6 networks are counted as one: {dict(many_networks)}")
    require(faults, what="Clients behind a trusted proxy")


async def check_rates(nginx: Nginx, holder: Mapping[str, str]) -> None:
    """The API takes a burst and ten a second; the gateway, webhooks and health do not have this limit."""
    async with nginx.session(source="127.0.0.23") as client:
        started = time.monotonic()
        api = await _ask_many(client, _API, lambda number: {"X-Forwarded-For": f"203.0.113.{number}"})
        most = _BURST + 1 + _RATE * (time.monotonic() - started) + 1
        gateway = await _ask_many(client, "/api/v1/proxy/note", lambda _: holder)
    async with nginx.session(source="127.0.0.24") as client:
        await _ask_many(client, "/health", lambda _: {})
    async with nginx.session(source="127.0.0.25") as client:  # the product answers 429 itself after some bad events
        await _ask_many(client, _WEBHOOK, lambda _: {}, method="POST")
    faults = []
    if not _BURST < api[200] <= most or api[200] + api[429] != _MANY:
        faults.append(f"{_MANY} requests at once to the API: {dict(api)}, and {most:.0f} were allowed at most")
    if gateway != {200: _MANY}:
        faults.append(f"{_MANY} requests at once to the gateway: {dict(gateway)}")
    limited = Counter(one["path"] for one in nginx.requests if one["limited"] == "REJECTED")
    faults += [f"{limited[path]} of {_MANY} to {path} are refused" for path in ("/health", _WEBHOOK) if limited[path]]
    require(faults, what="Limits")


async def _log_in(client: aiohttp.ClientSession, forged: str) -> int:
    body = {"email": f"{uuid4().hex}@example.com", "password": "not the password"}
    async with client.post("/api/v1/auth/login", json=body, headers={"X-Forwarded-For": forged}) as response:
        return response.status


async def _ask_many(
    client: aiohttp.ClientSession, path: str, headers_of: Callable[[int], Mapping[str, str]], *, method: str = "GET"
) -> Counter[int]:
    async def ask(number: int) -> int:
        async with client.request(method, path, headers=headers_of(number)) as response:
            await response.read()
            return response.status

    return Counter(await asyncio.gather(*(ask(number) for number in range(_MANY))))


async def check_slow_clients(nginx: Nginx) -> None:
    """Whoever keeps a connection waiting loses it."""
    head = f"POST /api/v1/auth/login HTTP/1.1\r\nHost: {SERVER_NAME}\r\nContent-Type: application/json\r\n"
    slow = {
        "no handshake": _be_slow(nginx.https_port),
        "no request": _be_slow(nginx.http_port),
        "half a head": _be_slow(nginx.https_port, tls=_trust(nginx), begin=head[:50]),
        "a head that drips": _be_slow(nginx.https_port, tls=_trust(nginx), begin=head, drip="X: a\r\n"),
        "half a body": _be_slow(nginx.https_port, tls=_trust(nginx), begin=f"{head}Content-Length: 100\r\n\r\n{{"),
        "a body that drips": _be_slow(
            nginx.https_port, tls=_trust(nginx), begin=f"{head}Content-Length: 100\r\n\r\n{{", drip=" "
        ),
    }
    held_s = dict(zip(slow, await asyncio.gather(*slow.values()), strict=True))
    print("  slow clients are closed after", ", ".join(f"{name} {held:.0f} s" for name, held in held_s.items()))
    require((name for name, held in held_s.items() if held >= _SLOW_S), what=f"Open after {_SLOW_S:g} s")


async def _be_slow(port: int, *, tls: ssl.SSLContext | None = None, begin: str = "", drip: str = "") -> float:
    """How long the connection of a client stays open that sends the beginning, and then a drip a second or nothing."""
    started = time.monotonic()
    reader, writer = await asyncio.open_connection(
        LOOPBACK, port, ssl=tls, server_hostname=None if tls is None else SERVER_NAME
    )
    writer.write(begin.encode())

    async def go_on() -> None:
        while True:
            await asyncio.sleep(_DRIP_S)
            writer.write(drip.encode())

    dripping = asyncio.ensure_future(go_on())
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(_SLOW_S):
            await reader.read()  # to the end, over an answer such as 408
    dripping.cancel()
    writer.close()
    return time.monotonic() - started


def _trust(nginx: Nginx) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(nginx.certificate))


def find_leaks(nginx: Nginx, secrets: Mapping[str, str]) -> Iterator[str]:
    """What nginx wrote and should not have: its access log and its error log."""
    for name, secret in secrets.items():
        if secret in nginx.log:
            yield name
