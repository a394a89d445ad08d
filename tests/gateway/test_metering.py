"""What clients did is what is stored: nothing lost and nothing counted twice, whatever happens to the database."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psycopg
import pytest

from tests.gateway.stack import Servers, ask, buy, connect, kill, until
from tests.support.people import Person, gateway_headers
from tests.support.servers import Cluster
from tests.support.serving import Served
from zenzefi.access.models import TokenGrant
from zenzefi.context import Context, open_context
from zenzefi.gateway.metering import Meter
from zenzefi.gateway.service import _flush_at_last
from zenzefi.gateway.streams import OpenStreams
from zenzefi.settings import Settings

Serving = Callable[..., AbstractAsyncContextManager[Served]]
Totals = tuple[int, int, int]  # requests, bytes in, bytes out


@dataclass
class Client:
    """Sends requests and keeps the books."""

    session: aiohttp.ClientSession
    random: random.Random
    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    by_outcome: dict[str, int] = field(default_factory=dict)

    @property
    def totals(self) -> Totals:
        return self.requests, self.bytes_in, self.bytes_out

    async def send(self, token: str) -> None:
        body = self.random.randbytes(self.random.randrange(0, 5_000))
        answer = await ask(self.session, token, "/upload", method="POST", data=body)
        if answer.status == 503:
            return  # the gateway's own word: nothing went upstream
        assert answer.status == 200
        self.requests += 1
        self.bytes_in += len(body)
        self.bytes_out += len(answer.body)


async def stored(ctx: Context, user_id: str, outcome: str = "served") -> Totals:
    async with ctx.connection() as conn:
        row = await conn.fetchrow(
            """
            SELECT coalesce(sum(requests), 0)::bigint, coalesce(sum(bytes_in), 0)::bigint,
                   coalesce(sum(bytes_out), 0)::bigint
            FROM usage_batches WHERE user_id = $1::text::uuid AND outcome = $2
            """,
            user_id,
            outcome,
        )
    assert row is not None
    return tuple(row)


async def in_sessions(ctx: Context, user_id: str) -> Totals:
    async with ctx.connection() as conn:
        row = await conn.fetchrow(
            """
            SELECT coalesce(sum(session.request_count), 0)::bigint, coalesce(sum(session.bytes_in), 0)::bigint,
                   coalesce(sum(session.bytes_out), 0)::bigint
            FROM gateway_sessions AS session INNER JOIN access_tokens AS token ON token.id = session.token_id
            WHERE token.user_id = $1::text::uuid
            """,
            user_id,
        )
    assert row is not None
    return tuple(row)


@pytest.fixture
async def servers_ctx(servers: Servers) -> AsyncIterator[Context]:
    async with open_context(Settings.from_env(servers.env)) as context:
        yield context


async def test_connections_that_are_killed_at_random_neither_lose_nor_double_a_request(
    servers: Servers, servers_ctx: Context
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    books = random.Random(seed)
    async with servers.serve(processes=3) as served, connect(served.url, fresh=True) as session:
        person, tokens = await buy(session, tokens=5)
        client = Client(session, books)
        for token in tokens:
            await client.send(token)
        killer = asyncio.create_task(kill_backends(servers, books))
        try:
            for _ in range(150):
                await asyncio.gather(*(client.send(token) for token in tokens))
        finally:
            killer.cancel()
            await asyncio.wait([killer])
    # The processes have stopped, and each has stored its last counters.
    assert client.requests > 500
    assert await stored(servers_ctx, person.user_id) == client.totals
    assert await in_sessions(servers_ctx, person.user_id) == client.totals


async def kill_backends(servers: Servers, source: random.Random) -> None:
    """End some of the product's connections every now and then, most of them in the middle of a transaction."""
    connection = await servers.cluster.connect()
    try:
        while True:
            await connection.execute(
                """
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE usename = $1 AND (xact_start IS NOT NULL OR random() < 0.1)
                """,
                servers.cluster.app,
            )
            await asyncio.sleep(source.uniform(0.001, 0.05))
    finally:
        await connection.close()


async def test_what_was_served_while_the_database_was_dead_is_stored_when_it_is_back(
    servers: Servers, servers_ctx: Context
) -> None:
    async with servers.serve(processes=2) as served, connect(served.url, fresh=True) as session:
        person, [token] = await buy(session)
        client = Client(session, random.Random(1))
        await client.send(token)
        kill(servers.postgres)
        for _ in range(40):  # of which those of the next five seconds are served
            await client.send(token)
            await asyncio.sleep(0.05)
        assert client.requests > 20
        servers.postgres.start()
        await until(lambda: is_stored(servers_ctx, person, client), timeout_s=30)
        assert await in_sessions(servers_ctx, person.user_id) == client.totals


async def is_stored(ctx: Context, person: Person, client: Client) -> bool:
    return await stored(ctx, person.user_id) == client.totals


async def test_the_last_counters_are_stored_though_a_connection_broke_just_before(
    cluster: Cluster, settings: Settings
) -> None:
    async with open_context(settings) as ctx:
        user_id = ctx.new_id()
        grant = TokenGrant(
            token_id=ctx.new_id(),
            user_id=user_id,
            token_hash=bytes(32),
            duration_hours=1,
            scope="full",
            activated_at=None,
            expires_at=None,
        )
        meter = Meter(ctx, streams=OpenStreams(limit=1))
        meter.count_denied(grant)
        async with ctx.connection() as conn:
            backend: int = await conn.fetchval("SELECT pg_backend_pid()")
        end_backend(cluster, backend)  # the event loop, and with it the pool, cannot have heard of that
        await _flush_at_last(meter)
        assert await stored(ctx, str(user_id), "denied") == (1, 0, 0)


def end_backend(cluster: Cluster, backend: int) -> None:
    with psycopg.connect(
        host=cluster.host, port=cluster.port, user=cluster.user, password=cluster.password, dbname="postgres"
    ) as connection:
        row = connection.execute("SELECT pg_terminate_backend(%s, 30000)", (backend,)).fetchone()
    assert row == (True,)


async def test_a_long_stream_is_counted_while_it_runs(
    client: aiohttp.ClientSession, ctx: Context, person: Person
) -> None:
    await person.top_up("1.00")
    token = (await person.buy_token(1))["token"]
    path = "/api/v1/proxy/events?count=1000&interval=0.05"
    async with client.get(path, headers=gateway_headers(token)) as response:
        await response.content.readany()
        await until(lambda: has_bytes_but_no_request(ctx, person), timeout_s=30)
    await until(lambda: has_requests(ctx, person, "aborted"), timeout_s=30)


async def has_bytes_but_no_request(ctx: Context, person: Person) -> bool:
    requests, _, bytes_out = await stored(ctx, person.user_id)
    return requests == 0 and bytes_out > 0


async def has_requests(ctx: Context, person: Person, outcome: str) -> bool:
    return (await stored(ctx, person.user_id, outcome))[0] == 1


@pytest.mark.parametrize(
    ("scope", "path", "status", "outcome"),
    [
        ("full", "/hello", 200, "served"),
        ("full", "/status/404", 404, "served"),
        ("full", "/status/500", 500, "upstream_error"),
        ("certificates_only", "/orders", 403, "denied"),
    ],
)
async def test_requests_are_counted_by_what_came_of_them(
    ctx: Context, person: Person, scope: str, path: str, status: int, outcome: str
) -> None:
    await person.top_up("1.00")
    token = (await person.buy_token(1, scope=scope))["token"]
    assert (await ask(person.client, token, path)).status == status
    await until(lambda: has_requests(ctx, person, outcome), timeout_s=30)


async def test_usage_is_kept_by_hour(ctx: Context, person: Person) -> None:
    await person.top_up("1.00")
    token = (await person.buy_token(1))["token"]
    assert (await ask(person.client, token)).status == 200
    await until(lambda: has_requests(ctx, person, "served"), timeout_s=30)
    async with ctx.connection() as conn:
        hour: Any = await conn.fetchval("SELECT hour FROM usage_batches WHERE user_id = $1::text::uuid", person.user_id)
    assert (hour.minute, hour.second, hour.microsecond) == (0, 0, 0)
    assert abs((ctx.now() - hour).total_seconds()) < 3700
