"""Rotated, refunded and banned tokens die everywhere, open streams included, and expired ones on time."""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import aiohttp
import pytest

from tests.gateway.stack import Servers, ask, buy, connect, kill, until
from tests.support.patience import PatientClock, patient_clock
from tests.support.people import Person, gateway_headers
from zenzefi.access import revocation
from zenzefi.access.revocation import Change, parse_message
from zenzefi.context import Context, open_context
from zenzefi.settings import Settings

EVENTS = "/api/v1/proxy/events?count=100000&interval=0.05"


class Stream:
    """A stream through the gateway, read until the gateway breaks it off."""

    def __init__(self, client: aiohttp.ClientSession, token: str, clock: PatientClock) -> None:
        self._client = client
        self._token = token
        self._clock = clock
        self.begun = asyncio.Event()
        self.ended_at: float | None = None

    async def run(self) -> None:
        try:
            async with self._client.get(EVENTS, headers=gateway_headers(self._token)) as response:
                assert response.status == 200
                async for _ in response.content:
                    self.begun.set()
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
            self.ended_at = self._clock()


@dataclass(frozen=True, slots=True)
class OpenedStreams:
    """Streams, and the clock by which their ends are dated."""

    streams: list[Stream]
    clock: PatientClock

    async def all_ended(self) -> bool:
        return all(stream.ended_at is not None for stream in self.streams)

    def all_ended_within(self, seconds: float, since: float) -> bool:
        return all(stream.ended_at is not None and stream.ended_at - since < seconds for stream in self.streams)


@asynccontextmanager
async def open_streams(client: aiohttp.ClientSession, token: str, *, number: int) -> AsyncIterator["OpenedStreams"]:
    """Streams that have begun; after the block they are waited for."""
    with patient_clock() as clock:
        streams = [Stream(client, token, clock) for _ in range(number)]
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for stream in streams:
                group.create_task(stream.run())
            for stream in streams:
                await stream.begun.wait()
            yield OpenedStreams(streams, clock)


async def rotate(person: Person) -> str:
    [bought] = (await person.get("/api/v1/tokens/my-tokens"))["items"]
    status, issued = await person.request("POST", f"/api/v1/tokens/{bought['id']}/rotate")
    assert status == 200
    string: str = issued["token"]
    return string


async def ban(ctx: Context, person: Person) -> list[bytes]:
    """What an administrator's ban does: the change, and after its commit the announcement."""
    async with ctx.transaction() as conn:
        await conn.execute("UPDATE users SET is_active = false WHERE id = $1::text::uuid", person.user_id)
        rows = await conn.fetch("SELECT token_hash FROM access_tokens WHERE user_id = $1::text::uuid", person.user_id)
    token_hashes = [row["token_hash"] for row in rows]
    await revocation.announce(ctx, token_hashes=token_hashes)
    return token_hashes


async def lift_ban(ctx: Context, person: Person, token_hashes: list[bytes]) -> None:
    async with ctx.transaction() as conn:
        await conn.execute("UPDATE users SET is_active = true WHERE id = $1::text::uuid", person.user_id)
    await revocation.welcome_back(ctx, token_hashes=token_hashes)


async def statuses(client: aiohttp.ClientSession, token: str, *, requests: int = 100) -> Counter[int]:
    answers = await asyncio.gather(*(ask(client, token) for _ in range(requests)))
    return Counter(answer.status for answer in answers)


async def test_a_rotated_token_dies_in_every_process_within_a_second(servers: Servers) -> None:
    async with servers.serve(processes=4) as served, connect(served.url, fresh=True) as client:
        person, [token] = await buy(client)
        assert await statuses(client, token) == {200: 100}
        async with open_streams(client, token, number=12) as streams:
            successor = await rotate(person)
            rotated_at = streams.clock()
            await asyncio.sleep(1)
            assert await statuses(client, token) == {401: 100}
        assert streams.all_ended_within(1, rotated_at)
        assert await statuses(client, successor) == {200: 100}


async def test_a_ban_takes_effect_within_a_second_and_ends_with_it(servers: Servers) -> None:
    async with (
        open_context(Settings.from_env(servers.env)) as ctx,
        servers.serve(processes=4) as served,
        connect(served.url, fresh=True) as client,
    ):
        person, [token, unused] = await buy(client, tokens=2)
        assert await statuses(client, token) == {200: 100}
        async with open_streams(client, token, number=12) as streams:
            token_hashes = await ban(ctx, person)
            banned_at = streams.clock()
            await asyncio.sleep(1)
            assert await statuses(client, token) == {401: 100}
            assert await statuses(client, unused) == {401: 100}
        assert streams.all_ended_within(1, banned_at)
        await lift_ban(ctx, person, token_hashes)
        await asyncio.sleep(1)
        assert await statuses(client, token) == {200: 100}


async def test_without_redis_a_rotated_token_dies_within_five_seconds(servers: Servers) -> None:
    async with servers.serve(processes=4) as served, connect(served.url, fresh=True) as client:
        person, [token] = await buy(client)
        assert await statuses(client, token) == {200: 100}
        async with open_streams(client, token, number=12) as streams:
            kill(servers.valkey)
            try:
                await rotate(person)
                rotated_at = streams.clock()
                await asyncio.sleep(1.1)
                assert await statuses(client, token) == {401: 100}
                await until(streams.all_ended, timeout_s=30)
            finally:
                servers.valkey.start()
        assert streams.all_ended_within(5, rotated_at)


async def test_a_revocation_that_nobody_announces_takes_effect_within_five_seconds(servers: Servers) -> None:
    async with (
        open_context(Settings.from_env(servers.env)) as ctx,
        servers.serve(processes=2) as served,
        connect(served.url, fresh=True) as client,
    ):
        person, [token] = await buy(client)
        assert await statuses(client, token) == {200: 100}
        async with open_streams(client, token, number=4) as streams:
            async with ctx.transaction() as conn:
                await conn.execute("UPDATE users SET is_active = false WHERE id = $1::text::uuid", person.user_id)
            banned_at, banned_at_s = streams.clock(), time.monotonic()
            while time.monotonic() < banned_at_s + 4.9:
                await ask(client, token)  # a busy token must not keep its own copy alive
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.15)
            assert await statuses(client, token) == {401: 100}
        assert streams.all_ended_within(5, banned_at)


async def test_a_stream_ends_when_its_token_expires(servers: Servers) -> None:
    async with (
        open_context(Settings.from_env(servers.env)) as ctx,
        servers.serve(processes=2) as served,
        connect(served.url, fresh=True) as client,
    ):
        _, [token] = await buy(client)
        assert (await ask(client, token)).status == 200
        expires_in_s = 6.0
        async with ctx.transaction() as conn:
            # Its end lies between these two, however long the update takes.
            earliest = time.monotonic() + expires_in_s
            expires_at = ctx.clock.after(timedelta(seconds=expires_in_s))
            latest = time.monotonic() + expires_in_s
            await conn.execute(
                """
                UPDATE access_tokens SET activated_at = $2::timestamptz - interval '1 hour', expires_at = $2
                WHERE token_hash = $1
                """,
                hashlib.sha256(token.encode()).digest(),
                expires_at,
            )
        async with open_streams(client, token, number=4) as streams:
            late_s, begun_s = streams.clock.late_s, time.monotonic()
        for stream in streams.streams:
            assert stream.ended_at is not None
            assert stream.ended_at + streams.clock.late_s > earliest - 0.1
            assert stream.ended_at + late_s < latest + 1
            assert latest > begun_s, "it had begun before its end"
        answer = await ask(client, token)
        assert (answer.status, answer.code) == (401, "token_rejected")


async def test_a_websocket_ends_with_its_token(servers: Servers) -> None:
    async with servers.serve(processes=2) as served, connect(served.url, fresh=True) as client:
        person, [token] = await buy(client)
        async with client.ws_connect("/api/v1/proxy/ws", headers=gateway_headers(token)) as websocket:
            await websocket.send_str("hello")
            assert (await websocket.receive(timeout=30)).data == "hello"
            await rotate(person)
            with patient_clock() as clock:
                rotated_at = clock()
                message = await websocket.receive(timeout=30)
                assert clock() - rotated_at < 1
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)


async def test_a_revocation_that_redis_missed_is_told_again(servers: Servers) -> None:
    token_hash = hashlib.sha256(b"a token").digest()
    settings = Settings.from_env(servers.env | {"REDIS_DEADLINE": "0.5"})
    async with open_context(settings) as ctx, servers.redis() as redis, redis.pubsub() as subscriber:
        await subscriber.subscribe(revocation.CHANNEL)
        assert (await subscriber.get_message(timeout=30))["type"] == "subscribe"
        await redis.client_pause(800)  # the first try gets no answer in time, and never comes to its message
        await revocation.announce(ctx, token_hashes=[token_hash])
        message = await subscriber.get_message(timeout=30)
        assert parse_message(message["data"]) == (Change.REVOKED, [token_hash])
        assert await redis.get(revocation.grant_key(token_hash)) == revocation.TOMBSTONE


@pytest.mark.parametrize("message", [b"", b"R" + bytes(31), b"X" + bytes(32), b"\xff"])
def test_messages_that_are_not_ours_are_not_understood(message: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_message(message)


def test_a_message_names_its_tokens() -> None:
    assert parse_message(b"R" + bytes(32) + b"\1" * 32) == (Change.REVOKED, [bytes(32), b"\1" * 32])
    assert parse_message(b"D" + bytes(32)) == (Change.DEVICE_RELEASED, [bytes(32)])
