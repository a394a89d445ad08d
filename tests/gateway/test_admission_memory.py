"""What a process remembers of tokens and of revocations, without any server."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from zenzefi.access.models import TokenGrant
from zenzefi.errors import DatabaseUnavailable
from zenzefi.gateway.flights import Flights
from zenzefi.gateway.models import Admission, Device, Outcome, StreamEnd
from zenzefi.gateway.streams import REMEMBER_REVOCATIONS_S, OpenStream, OpenStreams
from zenzefi.gateway.tokens import CACHE_S, GrantCache
from zenzefi.infra.instruments import OPEN_STREAMS

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEVICE = Device.of("device-0001")


@dataclass
class ManualClock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def grant_of(number: int, *, expires_at: datetime | None = None) -> TokenGrant:
    return TokenGrant(
        token_id=UUID(int=number),
        user_id=UUID(int=1),
        token_hash=number.to_bytes(32, "big"),
        duration_hours=1,
        scope="full",
        activated_at=None if expires_at is None else expires_at - timedelta(hours=1),
        expires_at=expires_at,
    )


def stream_of(grant: TokenGrant, *, confirmed_at: float) -> OpenStream:
    admission = Admission(grant=grant, device=DEVICE, confirmed_at=confirmed_at, decision=None)
    return OpenStream(admission, ip=None, user_agent=None)


def test_the_cache_forgets_after_a_second_or_as_soon_as_it_is_told() -> None:
    clock = ManualClock()
    cache = GrantCache(clock)
    for number, lifetime_s in ((1, 9.0), (2, 0.25)):
        grant = grant_of(number)
        cache.put(grant.token_hash, grant, holder=DEVICE, confirmed_at=clock.now, lifetime_s=lifetime_s)
    clock.now += 0.3
    assert cache.find(grant_of(1).token_hash) is not None
    assert cache.find(grant_of(2).token_hash) is None
    clock.now += CACHE_S - 0.3
    assert cache.find(grant_of(1).token_hash) is None


def test_the_cache_is_bounded() -> None:
    cache = GrantCache(ManualClock(), entries=3)
    for number in range(10):
        cache.put(grant_of(number).token_hash, grant_of(number), holder=None, confirmed_at=100.0)
    assert [number for number in range(10) if cache.find(grant_of(number).token_hash)] == [7, 8, 9]


def test_what_was_asked_for_before_a_revocation_is_not_remembered_after_it() -> None:
    clock = ManualClock()
    cache, grant = GrantCache(clock), grant_of(1)
    asked_at = clock.now
    clock.now += 0.01
    cache.drop(grant.token_hash)
    cache.put(grant.token_hash, grant, holder=DEVICE, confirmed_at=asked_at)
    assert cache.find(grant.token_hash) is None
    clock.now += 0.01
    cache.put(grant.token_hash, grant, holder=DEVICE, confirmed_at=clock.now)
    assert cache.find(grant.token_hash) is not None


def test_a_stream_that_was_admitted_before_a_revocation_and_opened_after_it_is_ended() -> None:
    clock = ManualClock()
    streams, grant = OpenStreams(limit=10, monotonic=clock), grant_of(1)
    late = stream_of(grant, confirmed_at=clock.now)
    clock.now += 0.01
    streams.revoke([grant.token_hash])
    streams.open(late)
    assert late.end_reason is StreamEnd.REVOKED
    reasons: list[str] = []
    late.on_end = reasons.append
    assert reasons == ["revoked"]
    clock.now += 0.01
    welcome_back = stream_of(grant, confirmed_at=clock.now)
    streams.open(welcome_back)
    assert welcome_back.end_reason is None


def test_the_gauge_tells_how_many_streams_are_open_in_all() -> None:
    streams, gauge = OpenStreams(limit=10), OPEN_STREAMS.labels()
    opened = [stream_of(grant_of(number), confirmed_at=0.0) for number in (1, 1, 2)]
    for stream in opened:
        streams.open(stream)
    streams.sample()
    assert gauge.cells[gauge.at] == 3
    for stream in opened:
        streams.close(stream)
    streams.sample()
    assert gauge.cells[gauge.at] == 0


def test_a_stream_is_told_once_and_keeps_its_first_reason() -> None:
    stream = stream_of(grant_of(1), confirmed_at=0.0)
    reasons: list[str] = []
    stream.on_end = reasons.append
    stream.end(StreamEnd.EXPIRED)
    stream.end(StreamEnd.REVOKED)
    assert (reasons, stream.end_reason, stream.outcome) == (["expired"], StreamEnd.EXPIRED, Outcome.ENDED)


def test_streams_end_at_their_own_tokens_expiry_and_revocations_are_forgotten() -> None:
    clock = ManualClock()
    streams = OpenStreams(limit=10, monotonic=clock)
    soon, later = (grant_of(number, expires_at=NOW + timedelta(seconds=number)) for number in (1, 2))
    opened = [stream_of(grant, confirmed_at=clock.now) for grant in (soon, later)]
    for stream in opened:
        streams.open(stream)
    streams.end_expired(NOW + timedelta(seconds=1))
    assert [stream.end_reason for stream in opened] == [StreamEnd.EXPIRED, None]
    streams.revoke([later.token_hash])
    clock.now += REMEMBER_REVOCATIONS_S + 1
    streams.end_expired(NOW)
    assert not streams.revoked_since(later.token_hash, 0.0)
    for stream in opened:
        streams.close(stream)
        streams.close(stream)
    assert list(streams) == []


def test_an_activation_reaches_the_streams_that_were_open_before_it() -> None:
    streams, clock = OpenStreams(limit=10), ManualClock()
    stream = stream_of(grant_of(1), confirmed_at=clock.now)
    streams.open(stream)
    assert streams.unchecked_since(clock.now + 1) == [stream.grant.token_hash]
    streams.renew(grant_of(1, expires_at=NOW), confirmed_at=clock.now + 2)
    assert stream.grant.expires_at == NOW
    assert streams.unchecked_since(clock.now + 1) == []
    streams.end_expired(NOW)
    assert stream.end_reason is StreamEnd.EXPIRED


async def test_a_stampede_asks_once_and_shares_the_answer_and_the_error() -> None:
    flights: Flights[str, int] = Flights()
    asked = 0

    async def ask() -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        if asked == 2:
            raise DatabaseUnavailable
        return asked

    assert await asyncio.gather(*(flights.share("key", ask) for _ in range(50))) == [1] * 50
    answers = await asyncio.gather(*(flights.share("key", ask) for _ in range(50)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {DatabaseUnavailable}
    assert await flights.share("key", ask) == 3


async def test_who_gives_up_waiting_leaves_the_flight_to_the_others() -> None:
    flights: Flights[str, int] = Flights()
    landed = asyncio.Event()

    async def ask() -> int:
        await landed.wait()
        return 1

    impatient, patient = (asyncio.create_task(flights.share("key", ask)) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    landed.set()
    assert await patient == 1


async def test_who_asks_when_the_answer_is_known_asks_anew() -> None:
    flights: Flights[str, int] = Flights()
    asked = 0

    async def ask() -> int:
        nonlocal asked
        asked += 1
        return asked

    first = asyncio.create_task(flights.share("key", ask))
    for _ in range(2):  # the flight has ended, and nobody who waits for it has been woken yet
        await asyncio.sleep(0)
    assert (asked, first.done()) == (1, False)
    # Who was given the answer of the flight that is over would not have had to wait, and could ask for ever.
    assert await flights.share("key", ask) == 2
    assert await first == 1
    assert await flights.share("key", ask) == 3
