"""Limits, leases and revocations on a real cluster of three nodes: slots move, and a node dies."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
from redis.crc import key_slot

from tests.gateway.stack import Answer, ask, connect, until
from tests.ratelimit.test_processes import Hammers, most_in_a_window
from tests.support.patience import patient_clock
from tests.support.people import register
from tests.support.serving import serve
from tests.support.valkey_cluster import NODES, ValkeyCluster, valkey_cluster
from zenzefi.access.revocation import grant_key
from zenzefi.access.token_format import hash_token
from zenzefi.doctor import Verdict, examine
from zenzefi.errors import RedisUnavailable
from zenzefi.infra.redis import RedisClient, Script
from zenzefi.ratelimit.errors import RateLimitExceeded
from zenzefi.ratelimit.limiter import ClassLimiter, Limiter
from zenzefi.ratelimit.ring import LimitClass, ring_key
from zenzefi.settings import Settings

LIMIT = 20
# What a process does without an answer is shown with nodes that are dead; a busy machine must not pass for one.
PATIENCE_S = 5.0
HANG_S = 1.0  # less than what the nodes wait for each other
_INCREMENT = Script("redis.call('GET', KEYS[2]) return redis.call('INCR', KEYS[1])")


@pytest.fixture(scope="module")
def valkeys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    """The cluster, as the last test left it."""
    with valkey_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def nodes(valkeys: ValkeyCluster) -> ValkeyCluster:
    """The cluster, with all its nodes."""
    valkeys.revive()
    return valkeys


@pytest.fixture(scope="module")
def cluster_env(env: dict[str, str], redis_env: dict[str, str], valkeys: ValkeyCluster) -> dict[str, str]:
    """The variables of an installation on the cluster, with the worker's own Valkey for the job queue."""
    return {**env, **{f"QUEUE_{name}": value for name, value in redis_env.items()}, **valkeys.env}


@pytest.fixture(scope="module")
def cluster_settings(cluster_env: dict[str, str]) -> Settings:
    """The same as Settings; four processes share a limit when its node is away."""
    limits = {"RATE_LIMIT_API": f"{LIMIT}/60", "RATE_LIMIT_PROCESSES": "4"}
    return Settings.from_env(cluster_env | limits)


@asynccontextmanager
async def open_client(settings: Settings, *, deadline_s: float = PATIENCE_S) -> AsyncIterator[RedisClient]:
    """A client of the cluster."""
    client = RedisClient(settings, deadline_s=deadline_s)
    try:
        yield client
    finally:
        await client.aclose()


async def is_admitted(limiter: ClassLimiter, subject: str) -> bool:
    try:
        await limiter.admit(subject)
    except RateLimitExceeded:
        return False
    return True


async def fill(limiter: ClassLimiter, subject: str) -> int:
    """Ask until the answer has been no for a second; how many were admitted."""
    admitted = denied = 0
    while denied < 50:
        if await is_admitted(limiter, subject):
            admitted, denied = admitted + 1, 0
        else:
            denied += 1
            await asyncio.sleep(0.02)
    return admitted


def test_eight_processes_are_exact_while_their_subject_moves_from_node_to_node(
    cluster_env: dict[str, str], nodes: ValkeyCluster
) -> None:
    limit, window_s = 1000, 2
    with Hammers(cluster_env, "proxy", limit, window_s) as hammers:
        key = ring_key(LimitClass.PROXY, hammers.subject)
        hammers.start()
        for _ in range(24):
            nodes.move_slot(key, (nodes.owner(key) + 1) % NODES, pause_s=0.01)
            time.sleep(0.1)
        spent, calls = hammers.results()
    assert most_in_a_window(spent, window_s) == limit
    assert calls < len(spent)


async def test_calls_are_executed_once_each_while_their_slot_moves(
    cluster_settings: Settings, nodes: ValkeyCluster
) -> None:
    tag = nodes.tag_on(0)
    keys = [f"{{{tag}}}:counter", f"{{{tag}}}:other"]
    moved = threading.Event()
    counted = refused = 0

    async def call(client: RedisClient) -> None:
        nonlocal counted, refused
        while not moved.is_set():
            try:
                await client.eval(_INCREMENT, keys)
                counted += 1
            except RedisUnavailable:  # its keys were half way for too long
                refused += 1

    def move() -> None:
        try:
            for number in range(30):
                nodes.move_slot(keys[0], (number + 1) % NODES, pause_s=0.005)
        finally:
            moved.set()

    async with open_client(cluster_settings) as client:
        await client.run("SET", keys[1], "there, so that both keys have to move")
        await asyncio.gather(asyncio.to_thread(move), *(call(client) for _ in range(16)))
        value = await client.run("GET", keys[0])
    assert value == b"%d" % counted
    assert counted > 100
    assert refused < counted / 10


async def test_doctor_tells_a_cluster_from_a_server_and_what_one_lost_node_would_cost(
    cluster_env: dict[str, str], nodes: ValkeyCluster
) -> None:
    async def look(**variables: str) -> tuple[Verdict, str]:
        findings = {finding.name: finding for finding in await examine(cluster_env | variables)}
        assert findings["job queue"].verdict is Verdict.OK
        return findings["redis cluster"].verdict, findings["redis cluster"].detail

    assert await look() == (Verdict.OK, f"{NODES} nodes with slots")
    assert (await look(REDIS_CLUSTER="false"))[0] is Verdict.FAIL
    queue = {name.removeprefix("QUEUE_"): cluster_env[name] for name in cluster_env if name.startswith("QUEUE_")}
    assert await look(**queue) == (Verdict.FAIL, "REDIS_HOST is no node of a cluster")
    nodes.client(0).config_set("cluster-require-full-coverage", "yes")
    try:
        assert (await look())[0] is Verdict.WARN
    finally:
        nodes.client(0).config_set("cluster-require-full-coverage", "no")


async def test_hung_node_costs_a_deadline_and_the_others_nothing(
    cluster_settings: Settings, nodes: ValkeyCluster
) -> None:
    keys = [f"{{{nodes.tag_on(number)}}}" for number in range(NODES)]

    async def is_set(client: RedisClient, key: str) -> bool:
        try:
            return await client.run("SET", key, "1", "PX", 60_000) == b"OK"
        except RedisUnavailable:
            return False

    async with open_client(cluster_settings, deadline_s=HANG_S) as client:
        for key in keys:
            await until(partial(is_set, client, key), timeout_s=30)
        slowest_s = 0.0
        with nodes.frozen(1), patient_clock() as clock:
            for _ in range(5):
                started, late_s = clock(), clock.late_s
                answers = await asyncio.gather(*(is_set(client, key) for key in keys))
                # A late event loop gives the node as much time again.
                slowest_s = max(slowest_s, clock() - started - (clock.late_s - late_s))
                assert answers == [True, False, True]
                await client.run("PUBLISH", "znz:news", "any node will do")
        assert slowest_s < HANG_S + 0.25
        await until(partial(is_set, client, keys[1]), timeout_s=30)


async def test_slot_that_nobody_owns_costs_its_own_keys_alone(cluster_settings: Settings, nodes: ValkeyCluster) -> None:
    orphan = other = nodes.tag_on(0)
    while key_slot(other.encode()) == key_slot(orphan.encode()):  # as two of one node's 5,461 slots may be by chance
        other = nodes.tag_on(0)
    async with open_client(cluster_settings) as client:

        async def is_answered() -> bool:
            try:
                return await client.run("GET", orphan) is None
            except RedisUnavailable:
                return False

        assert await is_answered()
        nodes.ask(0, "CLUSTER", "DELSLOTS", key_slot(orphan.encode()))
        try:
            for _ in range(5):
                assert not await is_answered()
                assert await client.run("GET", other) is None, "its node's circuit breaker stays closed"
        finally:
            nodes.ask(0, "CLUSTER", "ADDSLOTS", key_slot(orphan.encode()))
        await until(is_answered, timeout_s=30)


async def until_heard(nodes: ValkeyCluster, number: int, news: str, heard: asyncio.Queue[bytes]) -> None:
    """Publish it at a node until it comes: nodes that have only just met lose some on the way to each other."""

    async def comes() -> bool:
        nodes.client(number).publish("znz:news", news)
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while await heard.get() != news.encode():
                    pass
                return True
        return False

    await until(comes, timeout_s=30)


async def test_dead_node_leaves_its_subjects_their_share_the_others_their_limit_and_the_news_to_all(
    cluster_settings: Settings, nodes: ValkeyCluster
) -> None:
    async with asyncio.timeout(100), open_client(cluster_settings) as client:
        limiter = Limiter(cluster_settings, client).get(LimitClass.API)
        assert limiter is not None
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        connected: asyncio.Queue[None] = asyncio.Queue()
        client.subscribe("znz:news", heard.put_nowait, lambda: connected.put_nowait(None))
        await connected.get()
        for number in range(NODES):
            await until_heard(nodes, number, f"from {number}", heard)
        subjects = [nodes.tag_on(number) for number in range(NODES)]
        for subject in subjects:
            await limiter.admit(subject)

        dead = next(number for number in range(NODES) if nodes.ask(number, "PUBSUB", "NUMSUB", "znz:news")[1])
        nodes.kill(dead)
        await connected.get()
        await until_heard(nodes, (dead + 1) % NODES, "without it", heard)
        admitted = await asyncio.gather(*(fill(limiter, subject) for subject in subjects))
        assert admitted == [(LIMIT // 4 if number == dead else LIMIT) - 1 for number in range(NODES)]

        nodes.revive()
        # It comes back empty; what this process remembers is charged first.
        await until(partial(is_admitted, limiter, subjects[dead]), timeout_s=30, pause_s=0.02)
        assert 1 + await fill(limiter, subjects[dead]) == LIMIT - LIMIT // 4


async def test_whole_journey_runs_on_a_cluster_and_goes_on_without_one_node(
    cluster_env: dict[str, str], nodes: ValkeyCluster
) -> None:
    limits = {"RATE_LIMIT_PROXY": f"{LIMIT}/60", "RATE_LIMIT_PROCESSES": "2"}
    async with serve(cluster_env | limits, processes=2) as served, connect(served.url, fresh=True) as client:
        person = await register(client)
        await person.top_up("60.00")
        tokens: dict[int, Any] = {}
        while len(tokens) < NODES:
            bought = await person.buy_token()
            tokens.setdefault(nodes.owner(grant_key(hash_token(bought["token"]))), bought)

        # A new string takes its place on another node, and what was used of the limit goes with it.
        old = tokens[0]["token"]
        assert [(await ask(client, old)).status for _ in range(5)] == [200] * 5
        status, rotated = await person.request("POST", f"/api/v1/tokens/{tokens[0]['id']}/rotate")
        assert status == 200

        async def is_refused() -> bool:
            answers = await asyncio.gather(*(ask(client, old) for _ in range(8)))
            return {answer.status for answer in answers} == {401}

        assert await until(is_refused, timeout_s=30) < 1
        answers = await asyncio.gather(*(ask(client, rotated["token"]) for _ in range(LIMIT * 2)))
        assert_served(answers, LIMIT - 5)
        assert (await ask(client, tokens[1]["token"], device="device-0002")).status == 200
        assert (await ask(client, tokens[1]["token"], device="device-0003")).status == 409

        nodes.kill(2)
        answers = await asyncio.gather(*(ask(client, tokens[2]["token"]) for _ in range(LIMIT * 2)))
        assert 1 <= [answer.status for answer in answers].count(200) <= LIMIT, "one share of each process"
        assert {answer.status for answer in answers} == {200, 429}
        answers = await asyncio.gather(
            *(ask(client, tokens[1]["token"], device="device-0002") for _ in range(LIMIT * 2))
        )
        assert_served(answers, LIMIT - 1)


def assert_served(answers: list[Answer], served: int) -> None:
    assert sorted(answer.status for answer in answers) == [200] * served + [429] * (len(answers) - served)
