"""The hot path's client of one server: what its callers are told when that server is restarted, hung or read-only."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.support.patience import patient_clock
from tests.support.servers import SECRET_KEY
from zenzefi.devstack.valkey import EmbeddedValkey
from zenzefi.errors import RedisUnavailable
from zenzefi.infra.redis import RedisClient, Script, Subscription, ping
from zenzefi.infra.redis_node import BREAKER_FAILURES, BREAKER_OPEN_S
from zenzefi.settings import Settings, SettingsError

BASE = {"SECRET_KEY": SECRET_KEY, "ENVIRONMENT": "development"}
PATIENCE_S = 10.0  # a busy machine must not pass for a server that is away
DEADLINE_S = 0.5  # where the deadline is what is tested


class Clock:
    """The breaker's clock, which a test may put forward."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


class Cutter:
    """A wire to a server that can be told to be slow, or to cut: requests still pass, and the connection ends where a
    reply would.
    """

    def __init__(self, server: EmbeddedValkey) -> None:
        self._server = server
        self.cutting = False
        self.delay_s = 0.0  # of each reply

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(self._server.host, self._server.port)
        try:
            requests = asyncio.create_task(self._pass_on(reader, server_writer))
            while (reply := await server_reader.read(65536)) and not self.cutting:
                if self.delay_s:
                    asyncio.get_running_loop().call_later(self.delay_s, writer.write, reply)
                else:
                    writer.write(reply)
            requests.cancel()
        finally:
            server_writer.close()
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.read(65536):
            writer.write(request)
        writer.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A server for these tests to break."""
    server = EmbeddedValkey(tmp_path_factory.mktemp("redis"), append_only=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(server: EmbeddedValkey, clock: Clock) -> AsyncIterator[RedisClient]:
    """A connected client."""
    async with client_of(server, server.port, clock) as client:
        yield client


@pytest.fixture
async def hasty(server: EmbeddedValkey, clock: Clock) -> AsyncIterator[RedisClient]:
    """The same with a deadline."""
    async with client_of(server, server.port, clock, deadline_s=DEADLINE_S) as client:
        yield client


@asynccontextmanager
async def client_of(
    server: EmbeddedValkey, port: int, clock: Clock, *, deadline_s: float = PATIENCE_S
) -> AsyncIterator[RedisClient]:
    variables = {"REDIS_HOST": server.host, "REDIS_PORT": str(port), "REDIS_PASSWORD": server.password}
    client = RedisClient(Settings.from_env(BASE | variables), clock, deadline_s=deadline_s)
    await until_connected(client, clock)
    await client.run("FLUSHALL")
    try:
        yield client
    finally:
        await client.aclose()


async def until_connected(client: RedisClient, clock: Clock) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await ping(client)
            except RedisUnavailable:
                clock.ahead_s += BREAKER_OPEN_S
                await asyncio.sleep(0.02)
            else:
                return


async def test_calls_of_one_turn_get_their_own_replies_whoever_is_cancelled(client: RedisClient) -> None:
    calls = [asyncio.ensure_future(client.run("INCR", f"znz:{number % 7}")) for number in range(500)]
    await asyncio.sleep(0)
    for call in calls[::5]:
        call.cancel()
    replies = await asyncio.gather(*calls, return_exceptions=True)
    for number, reply in enumerate(replies):
        if number % 5:
            assert reply == number // 7 + 1
        else:
            assert isinstance(reply, asyncio.CancelledError)


async def test_forgotten_script_is_sent_again(client: RedisClient) -> None:
    script = Script("return redis.call('INCR', KEYS[1])")
    assert await client.eval(script, ["znz:script"]) == 1
    await client.run("SCRIPT", "FLUSH")
    assert await client.eval(script, ["znz:script"]) == 2


async def test_restart_costs_an_idle_client_no_error(server: EmbeddedValkey, client: RedisClient) -> None:
    server.stop()
    server.start()
    await asyncio.sleep(0.05)  # the event loop has to hear of the end before it is asked for something
    assert await client.run("SET", "znz:after", "restart") == b"OK"


async def test_nothing_is_executed_twice_when_the_reply_is_lost(
    server: EmbeddedValkey, client: RedisClient, clock: Clock
) -> None:
    cutter = Cutter(server)
    wire = await asyncio.start_server(cutter.handle, "127.0.0.1", 0)
    async with wire, client_of(server, wire.sockets[0].getsockname()[1], clock) as cut_off:
        for lost in range(1, 4):
            cutter.cutting = True
            with pytest.raises(RedisUnavailable):
                await cut_off.run("INCR", "znz:counter")
            cutter.cutting = False
            assert await client.run("GET", "znz:counter") == b"%d" % lost
            await until_connected(cut_off, clock)


async def test_many_calls_of_a_slow_server_do_not_wait_for_many_round_trips(
    server: EmbeddedValkey, clock: Clock
) -> None:
    cutter = Cutter(server)
    wire = await asyncio.start_server(cutter.handle, "127.0.0.1", 0)
    async with wire, client_of(server, wire.sockets[0].getsockname()[1], clock) as far_away:
        cutter.delay_s = 0.5
        with patient_clock() as seconds:
            started = seconds()
            replies = await asyncio.gather(*(far_away.run("INCR", "znz:far") for _ in range(1_000)))
            assert seconds() - started < 4 * cutter.delay_s
        assert replies == list(range(1, 1_001))


@pytest.mark.parametrize(
    ("damage", "repair"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    ],
    ids=["out-of-memory", "read-only"],
)
async def test_server_that_cannot_write_counts_as_away_until_it_can(
    client: RedisClient, clock: Clock, damage: tuple[str, ...], repair: tuple[str, ...]
) -> None:
    script = Script("return redis.call('SET', KEYS[1], 'x')")
    await client.run(*damage)
    for _ in range(BREAKER_FAILURES):
        with pytest.raises(RedisUnavailable):
            await client.eval(script, ["znz:written"])
    clock.ahead_s += BREAKER_OPEN_S
    await client.run(*repair)
    assert await client.eval(script, ["znz:written"]) == b"OK"


async def test_a_late_event_loop_is_not_taken_for_a_server_that_is_away(hasty: RedisClient) -> None:
    for number in range(1, 4):
        call = asyncio.ensure_future(hasty.run("INCR", "znz:late"))
        await asyncio.sleep(0)  # the batch is about to be sent
        await asyncio.sleep(0)
        time.sleep(2 * DEADLINE_S)
        assert await call == number


async def test_hung_server_costs_a_deadline_twice_and_then_nothing(
    server: EmbeddedValkey, hasty: RedisClient, clock: Clock
) -> None:
    await hasty.run("SET", "znz:before", "stale")
    os.kill(server.child.pid, signal.SIGSTOP)
    try:
        with patient_clock() as seconds:
            for _ in range(BREAKER_FAILURES):
                started, late_s = seconds(), seconds.late_s
                with pytest.raises(RedisUnavailable):
                    await hasty.run("GET", "znz:before")
                # A late event loop gives the replies that may have come meanwhile as much time again.
                assert seconds() - started < 1.5 * DEADLINE_S + (seconds.late_s - late_s)
        with pytest.raises(RedisUnavailable):
            hasty.run("GET", "znz:before").send(None)  # it does not even wait for a turn of the event loop
    finally:
        os.kill(server.child.pid, signal.SIGCONT)
    await until_connected(hasty, clock)
    # Late replies to what was given up must not be taken for the answer.
    assert await hasty.run("SET", "znz:after", "fresh") == b"OK"
    assert await hasty.run("GET", "znz:after") == b"fresh"


async def test_subscription_is_restored_after_a_restart(
    server: EmbeddedValkey, client: RedisClient, clock: Clock
) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    connected: asyncio.Queue[None] = asyncio.Queue()
    client.subscribe("znz:news", heard.put_nowait, lambda: connected.put_nowait(None))
    async with asyncio.timeout(60):
        await connected.get()
        await client.run("PUBLISH", "znz:news", "first")
        assert await heard.get() == b"first"
        server.stop()
        server.start()
        await connected.get()
        await until_connected(client, clock)
        await client.run("PUBLISH", "znz:news", "second")
        assert await heard.get() == b"second"


async def test_subscription_ends_at_once_even_while_it_pings(
    client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Subscription, "PING_S", 0.1)
    for turns in range(12):
        connected = asyncio.Event()
        subscription = client.subscribe("znz:news", lambda _: None, connected.set)
        await connected.wait()
        time.sleep(0.11)  # a ping is due the moment that the event loop goes on
        for _ in range(turns):
            await asyncio.sleep(0)
        closing = asyncio.create_task(subscription.aclose())
        await asyncio.wait((closing,), timeout=30)  # it would take for ever
        assert closing.done()


def test_a_cluster_needs_a_single_server_for_the_queue() -> None:
    cluster = BASE | {"REDIS_CLUSTER": "true", "REDIS_HOST": "cluster.example", "REDIS_PASSWORD": "p"}
    with pytest.raises(SettingsError, match="QUEUE_REDIS_HOST"):
        Settings.from_env(cluster)
    with pytest.raises(SettingsError, match="REDIS_DB"):
        Settings.from_env(cluster | {"QUEUE_REDIS_HOST": "queue.example", "REDIS_DB": "1"})
    settings = Settings.from_env(cluster | {"QUEUE_REDIS_HOST": "queue.example", "QUEUE_REDIS_PORT": "7000"})
    assert (settings.redis_host, settings.redis_port) == ("cluster.example", 6379)
    assert (settings.queue_redis_host, settings.queue_redis_port) == ("queue.example", 7000)
    assert (settings.queue_redis_db, settings.queue_redis_password) == (0, "p")
