"""What nginx answers: its headers, the routes that it hides, the names that are not its own, the way to HTTPS."""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from deploy.checks.failures import require
from deploy.checks.nginx_servers import SERVER_NAME, Nginx
from deploy.checks.nginx_upstream import UPSTREAM_LOCATION
from zenzefi.devstack.ports import LOOPBACK

SECRET_QUERY: Final = "secret-of-a-query"  # noqa: S105
_HEADERS: Final = {
    "Strict-Transport-Security": "max-age=63072000; includeSubDomains",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Server": "nginx",
}
_JSON: Final = "application/json"
_PROBLEM: Final = "application/problem+json"
_HIDDEN: Final = (
    "/metrics",
    "/livez",
    "/readyz",
    "/stub_status",
    "//metrics",
    "/%6detrics",
    "/x/../metrics",
    "/metrics?a",
)
_MAX_API_BYTES: Final = 65_536
_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    path: str
    status: int
    content_type: str = _PROBLEM
    method: str = "GET"
    headers: Mapping[str, str] | None = None
    body: bytes | None = None
    location: str | None = None


async def check_answers(nginx: Nginx, holder: Mapping[str, str]) -> None:
    """Raise CheckFailed when an answer, of the product or of nginx, lacks a header, has one twice, or is another."""
    questions = [
        _Question(path="/health", status=200, content_type=_JSON),
        _Question(
            path=f"/api/v1/proxy/note?q={SECRET_QUERY}",
            status=200,
            content_type=_JSON,
            headers=holder,
            location=UPSTREAM_LOCATION,
        ),
        _Question(path="/api/v1/proxy/note", status=401),
        _Question(path="/api/v1/no/such/route", status=404),
        _Question(path="/api/v1/proxy", status=404),
        _Question(path="/api/v1/webhooks", status=404),
        _Question(path="/api/v1/auth/login", status=413, method="POST", body=b"a" * (_MAX_API_BYTES + 1)),
        *(_Question(path=path, status=404) for path in _HIDDEN),
    ]
    async with nginx.session(source="127.0.0.11") as client:
        await _ask_all(client, nginx, questions)


async def check_orphan(nginx: Nginx) -> None:
    """The same of an nginx that has no web instance; what it says of its failures must not repeat the queries."""
    targets = [f"{path}?q={SECRET_QUERY}" for path in ("/health", "/api/v1/x", "/api/v1/proxy/x")]
    async with nginx.session() as client:
        await _ask_all(client, nginx, [_Question(path=target, status=502) for target in targets])


async def _ask_all(client: aiohttp.ClientSession, nginx: Nginx, questions: list[_Question]) -> None:
    require([fault for one in questions for fault in await _ask(client, nginx, one)], what="Answers")


async def _ask(client: aiohttp.ClientSession, nginx: Nginx, one: _Question) -> list[str]:
    url = URL(f"{nginx.url}{one.path}", encoded=True)
    async with client.request(one.method, url, headers=one.headers, data=one.body, allow_redirects=False) as response:
        text = await response.text()
    faults = [] if response.status == one.status else [f"{response.status} instead of {one.status}: {text[:200]}"]
    if response.content_type != one.content_type:
        faults.append(f"its type is {response.content_type}")
    if (location := response.headers.get("Location")) != one.location:
        faults.append(f"it leads to {location}")
    for name, value in _HEADERS.items():
        if response.headers.getall(name, []) != [value]:
            faults.append(f"{name}: {response.headers.getall(name, [])}")
    if len(response.headers.getall("X-Request-ID", [])) != 1:
        faults.append(f"X-Request-ID: {response.headers.getall('X-Request-ID', [])}")
    return [f"{one.method} {one.path}: {fault}" for fault in faults]


async def check_names(nginx: Nginx) -> None:
    """Other names are refused, on both ports, and port 80 leads to HTTPS and to challenges only."""
    challenges = nginx.run_dir / "acme/.well-known/acme-challenge"
    challenges.mkdir(parents=True, exist_ok=True)
    (challenges / "token_1-a").write_text("answer", encoding="ascii")
    (nginx.run_dir / "acme/secret").write_text("secret", encoding="ascii")
    (challenges / "link").symlink_to(nginx.certificate)
    challenge = "/.well-known/acme-challenge"
    expected = {
        f"GET {challenge}/token_1-a": "200",
        f"GET {challenge}/missing": "404",
        f"GET {challenge}/": "308",
        f"GET {challenge}/../../secret": "308",
        f"GET {challenge}/%2e%2e/%2e%2e/secret": "308",
        f"GET {challenge}/link": "403",
        f"POST /api/v1/auth/login?q={SECRET_QUERY}": "308",
        "GET /metrics": "308",
    }
    faults = []
    for line, status in expected.items():
        answer = await _send(nginx.http_port, line, SERVER_NAME)
        if answer.split(" ")[1:2] != [status]:
            faults.append(f"port 80, {line}: {answer[:200]!r} instead of {status}")
        target = line.partition(" ")[2]
        if status == "308" and f"\r\nLocation: https://{SERVER_NAME}{target}\r\n" not in answer:
            faults.append(f"port 80, {line}: it leads elsewhere: {answer[:300]!r}")
    if answer := await _send(nginx.http_port, "GET /", "other.example"):
        faults.append(f"port 80, another name: {answer[:200]!r}")
    tls = ssl.create_default_context(cafile=str(nginx.certificate))
    answer = await _send(nginx.https_port, "GET /health", "other.example", tls=tls)
    if not answer.startswith("HTTP/1.1 421 "):
        faults.append(f"port 443, another name after the handshake: {answer[:200]!r}")
    require(faults, what="Names")


async def _send(port: int, line: str, host: str, *, tls: ssl.SSLContext | None = None) -> str:
    """What a client gets who sends this request line as it is."""
    async with asyncio.timeout(_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(
            LOOPBACK, port, ssl=tls, server_hostname=None if tls is None else SERVER_NAME
        )
        writer.write(f"{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        try:
            return (await reader.read()).decode()
        except ConnectionResetError:
            return ""
        finally:
            writer.close()
