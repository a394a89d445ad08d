"""A product of its own for tests that break things: PostgreSQL, Valkey, an upstream, and `zenzefi serve` on top."""

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import aiohttp
import psutil
from redis.asyncio import Redis
from yarl import URL

from tests.support.inprocess import run_app
from tests.support.patience import patient_clock
from tests.support.people import Person, gateway_headers, register
from tests.support.servers import SECRET_KEY, Cluster
from tests.support.serving import PATIENT, Served, serve
from zenzefi.context import open_context
from zenzefi.devstack.embedded import EmbeddedServer
from zenzefi.devstack.postgres import EmbeddedPostgres
from zenzefi.devstack.upstream import run_upstream
from zenzefi.devstack.valkey import EmbeddedValkey
from zenzefi.settings import Settings

DATABASE = "zenzefi_gateway_test"
HARD_TIMEOUT_S = 60.0  # beyond the time that is asked for, on a machine that stands still again and again


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The servers behind the product, which a test may stop, kill and freeze."""

    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    cluster: Cluster
    env: dict[str, str]

    @asynccontextmanager
    async def serve(self, *, processes: int = 2, **variables: str) -> AsyncIterator[Served]:
        """The product's own processes on these servers."""
        async with serve({**self.env, **variables}, processes=processes) as served:
            yield served

    @asynccontextmanager
    async def redis(self) -> AsyncIterator["Redis"]:
        """A client of the Valkey, for looking at what is in it."""
        client = Redis(host=self.valkey.host, port=self.valkey.port, password=self.valkey.password)
        try:
            yield client
        finally:
            await client.aclose()


@asynccontextmanager
async def run_servers() -> AsyncIterator[Servers]:
    """Start the servers with a migrated database; PostgreSQL logs every statement."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zenzefi-gateway-")))
        # What is committed has to survive kill -9 of the server, as it does in production.
        kept = {"synchronous_commit": "on", "log_statement": "all"}
        postgres = EmbeddedPostgres(directory / "postgres", durable=False, settings=kept)
        postgres.start()
        stack.callback(postgres.stop)
        valkey = EmbeddedValkey(directory / "valkey", append_only=False)
        valkey.start()
        stack.callback(valkey.stop)
        cluster = Cluster(
            host=postgres.host,
            port=postgres.port,
            user=postgres.superuser,
            password=postgres.password,
            run=uuid4().hex[:8],
        )
        await cluster.prepare()
        await cluster.clone(DATABASE)
        async with run_upstream() as upstream_port:
            env = {
                "ENVIRONMENT": "development",
                "SECRET_KEY": SECRET_KEY,
                "RATE_LIMIT_AUTH": "off",
                "RATE_LIMIT_API": "off",
                "RATE_LIMIT_PROXY": "off",
                "MAX_STREAMS_PER_TOKEN": "1000",
                "ZENZEFI_TARGET_URL": f"http://127.0.0.1:{upstream_port}",
                "REDIS_HOST": valkey.host,
                "REDIS_PORT": str(valkey.port),
                "REDIS_PASSWORD": valkey.password,
                **PATIENT,
                **cluster.settings_env(DATABASE),
            }
            yield Servers(postgres=postgres, valkey=valkey, cluster=cluster, env=env)


def kill(server: EmbeddedServer) -> None:
    """kill -9 of a server and all its children, as the kernel's out-of-memory killer would."""
    for process in _family(server):
        os.kill(process, signal.SIGKILL)
    server.stop()


@contextmanager
def frozen(server: EmbeddedServer) -> Iterator[None]:
    """Stop a server in its tracks: connections stay open and nobody answers."""
    processes = _family(server)
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def _family(server: EmbeddedServer) -> list[int]:
    parent = psutil.Process(server.child.pid)
    return [process.pid for process in (parent, *parent.children(recursive=True))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back through the gateway."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        """The code of a problem document."""
        if "problem+json" not in self.headers.get("Content-Type", ""):
            return None
        code: str = json.loads(self.body)["code"]
        return code


async def ask(
    client: aiohttp.ClientSession,
    token: str,
    path: str = "/hello",
    *,
    device: str = "device-0001",
    method: str = "GET",
    data: bytes | None = None,
) -> Answer:
    """One request through the gateway."""
    async with client.request(
        method, f"/api/v1/proxy{path}", headers=gateway_headers(token, device), data=data, allow_redirects=False
    ) as response:
        return Answer(status=response.status, headers=dict(response.headers), body=await response.read())


@asynccontextmanager
async def connect(url: str, *, fresh: bool = False) -> AsyncIterator[aiohttp.ClientSession]:
    """A client; `fresh` gives every request a connection of its own, which any of the processes may take."""
    connector = aiohttp.TCPConnector(limit=0, force_close=fresh)
    async with aiohttp.ClientSession(url, connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@asynccontextmanager
async def gateway_to(
    env: Mapping[str, str], upstream_url: str, **variables: str
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the application, in this process, before another upstream."""
    settings = Settings.from_env({**env, "ZENZEFI_TARGET_URL": upstream_url, **variables})
    async with open_context(settings) as ctx, run_app(ctx) as url, connect(url) as client:
        yield client


def count_forwarding_processes(served: Served, upstream_url: str) -> int:
    """How many of the web processes have a connection to the upstream, as those that served something have."""
    upstream_port = URL(upstream_url).port
    return sum(
        any(getattr(connection.raddr, "port", None) == upstream_port for connection in child.net_connections("tcp"))
        for child in psutil.Process(served.process.pid).children()
    )


async def until_all_forward(
    served: Served, client: aiohttp.ClientSession, upstream_url: str, *, processes: int
) -> None:
    """Ask until every process has served something: `serve` waits for the first of them, and chance chooses."""
    _, [token] = await buy(client)

    async def all_have_forwarded() -> bool:
        await asyncio.gather(*(ask(client, token) for _ in range(8 * processes)))
        return count_forwarding_processes(served, upstream_url) == processes

    await until(all_have_forwarded, timeout_s=30)


async def until(holds: Callable[[], Awaitable[bool]], *, timeout_s: float, pause_s: float = 0.05) -> float:
    """Ask until the answer is yes; the seconds that took, but for those in which this machine stood still."""
    with patient_clock() as clock:
        started = clock()
        async with asyncio.timeout(timeout_s + HARD_TIMEOUT_S):
            while not await holds():
                if clock() - started > timeout_s:
                    raise TimeoutError(f"not within {timeout_s:g} s")
                await asyncio.sleep(pause_s)
        return clock() - started


async def buy(client: aiohttp.ClientSession, *, tokens: int = 1, scope: str = "full") -> tuple[Person, list[str]]:
    """Somebody new with tokens of an hour."""
    person = await register(client)
    await person.top_up(f"{tokens + 1}.00")
    return person, [(await person.buy_token(1, scope=scope))["token"] for _ in range(tokens)]
