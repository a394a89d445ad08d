"""What one process makes of its permits: none is spent late, none is lost, and nobody who goes away takes any along."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import redis as redis_py

from zenzefi.infra.redis import RedisClient
from zenzefi.ratelimit.errors import RateLimitExceeded
from zenzefi.ratelimit.limiter import ClassLimiter
from zenzefi.ratelimit.ring import CHARGE, Charge, ChargeRequest, LimitClass, ring_key
from zenzefi.ratelimit.subject import BUSY, HEADROOM, Subject, Terms
from zenzefi.ratelimit.window import AdmissionLog
from zenzefi.settings import RateLimit, Settings


def terms(limit: int, window_s: int, *, most: int = 1, lease_s: float = 0.1) -> Terms:
    return Terms(
        limit_class=LimitClass.PROXY,
        policy=RateLimit(limit=limit, window_s=window_s),
        lease_s=lease_s,
        most=most,
        share=limit // 2,
    )


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[RedisClient]:
    """A client of its own."""
    client = RedisClient(settings)
    yield client
    await client.aclose()


async def burst(limiter: ClassLimiter, name: str, times: int) -> int:
    """How many of so many requests at once are admitted."""
    answers = await asyncio.gather(*(limiter.admit(name) for _ in range(times)), return_exceptions=True)
    assert all(not isinstance(answer, Exception) or isinstance(answer, RateLimitExceeded) for answer in answers)
    return sum(not isinstance(answer, RateLimitExceeded) for answer in answers)


async def test_bursts_on_both_sides_of_a_boundary_are_one_burst(redis: RedisClient) -> None:
    window_s = 3
    limiter, name = ClassLimiter(terms(20, window_s), redis=redis), f"test:{uuid4()}"
    await asyncio.sleep(-(time.time() + 0.15) % window_s)  # the end of a fixed window, if it were one
    asked_at = time.monotonic()
    assert await burst(limiter, name, 30) == 20
    admitted_at = time.monotonic()
    await asyncio.sleep(0.3)
    with pytest.raises(RateLimitExceeded) as refused:
        await limiter.admit(name)
    most_s = asked_at + window_s + 0.1 - time.monotonic()
    assert math.ceil(most_s) <= int(refused.value.headers["Retry-After"]) <= window_s
    await asyncio.sleep(admitted_at + window_s + 0.1 - time.monotonic())
    assert await burst(limiter, name, 30) == 20


async def test_unspent_permits_come_back_and_late_ones_are_not_spent(redis: RedisClient) -> None:
    now_s = 0.0
    limiter = ClassLimiter(terms(100, 60, most=50), redis=redis, monotonic=lambda: now_s)
    name = f"test:{uuid4()}"
    for _ in range(10):
        now_s += 0.001
        await limiter.admit(name)
    assert (await limiter.look(name)).free < 90, "some were charged in advance"
    now_s += 0.15
    last = await limiter.admit(name)
    assert last.remaining == 89
    await limiter.forgive(name, last)
    now_s += 0.15
    assert (await limiter.admit(name)).remaining == 89


async def test_caller_who_goes_away_leaves_the_call_to_the_others(redis: RedisClient) -> None:
    limiter, name = ClassLimiter(terms(10, 60), redis=redis), f"test:{uuid4()}"
    callers = [asyncio.create_task(limiter.admit(name)) for _ in range(10)]
    await asyncio.sleep(0)
    for caller in callers[::2]:
        caller.cancel()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True, False] * 5
    # What was asked for the others is there for those who come next, as long as the lease lasts.
    assert await burst(limiter, name, 20) == 5


async def test_forgotten_scripts_are_sent_again(redis: RedisClient, ring_client: "redis_py.Redis") -> None:
    limiter, name = ClassLimiter(terms(1000, 60), redis=redis), f"test:{uuid4()}"
    for _ in range(20):
        ring_client.script_flush()
        await limiter.admit(name)
    assert not limiter.is_degraded
    assert (await limiter.look(name)).free == 980


def charge(*, admitted: int, stamp: bytes = b"7") -> Charge:
    return Charge(admitted=admitted, free=50, retry_after_s=0.0, next_free_s=1.0, stamp=stamp, ring=b"1")


def test_permits_go_back_once_whatever_becomes_of_the_request() -> None:
    subject = Subject(terms(100, 60, most=50), "test")
    first = subject.request(0.0)
    assert (first.want, first.back) == (1, 0)
    subject.settle(charge(admitted=5), first, sent_at=0.0, now=0.01)
    assert subject.spend(0.02) is not None
    again = subject.request(0.2)
    assert (again.back, again.stamp, again.history) == (4, b"7", 1)
    lost = subject.request(0.3)
    assert lost.back == 0
    # Only who knows that the request was not made may have them again, and not beside those of another charge.
    subject.restore(again)
    assert subject.request(0.4).back == 4
    subject.settle(charge(admitted=2, stamp=b"8"), lost, sent_at=0.5, now=0.5)
    subject.restore(again)
    assert subject.request(0.6).back == 2


def test_answers_that_overlap_are_spent_within_the_earlier_lease_and_given_back_by_the_later_charge() -> None:
    subject = Subject(terms(100, 60, most=50), "test")
    one, other = subject.request(0.0), subject.request(0.05)
    subject.settle(charge(admitted=3), one, sent_at=0.0, now=0.06)
    subject.settle(charge(admitted=2, stamp=b"8"), other, sent_at=0.05, now=0.07)
    assert [subject.spend(0.09) is not None for _ in range(2)] == [True] * 2
    assert subject.spend(0.11) is None
    back = subject.request(0.12)
    assert (back.back, back.stamp) == (2, b"8"), "three are left, but only two of this charge"


def test_request_beside_another_call_asks_for_what_a_lease_will_spend() -> None:
    subject = Subject(terms(1000, 60, most=50, lease_s=1.0), "test")
    assert subject.needs_charge(0.0)
    first = ChargeRequest(limit=1000, window_us=61_000_000, want=1, least=1)
    subject.settle(charge(admitted=12), first, sent_at=0.0, now=0.0)
    assert not subject.needs_charge(0.2)
    for _ in range(8):
        subject.spend(0.5)
    assert subject.needs_charge(0.8), "the lease would end before the next call"
    renewal = subject.request(0.8)
    assert (renewal.want, renewal.back) == (math.ceil(HEADROOM * 8 / 0.8), 4)


def busy_subject() -> Subject:
    """One whose permits of the time 0 last for a second; 100 were charged, and 60 of them are spent."""
    subject = Subject(terms(10_000, 60, most=1000, lease_s=1.0), "test")
    first = ChargeRequest(limit=10_000, window_us=61_000_000, want=100, least=1)
    subject.settle(charge(admitted=100), first, sent_at=0.0, now=0.0)
    for _ in range(60):
        assert subject.spend(0.5) is not None
    return subject


def test_subject_that_spends_little_asks_for_nothing_ahead() -> None:
    subject = Subject(terms(1000, 60, most=50, lease_s=1.0), "test")
    assert not subject.is_busy(0.0)
    first = ChargeRequest(limit=1000, window_us=61_000_000, want=BUSY, least=1)
    subject.settle(charge(admitted=BUSY), first, sent_at=0.0, now=0.0)
    for _ in range(BUSY // 2):
        subject.spend(0.5)
    assert not subject.is_busy(0.9)
    assert busy_subject().is_busy(0.9)
    assert not busy_subject().is_busy(1.0), "its permits have lapsed, so that its requests ask"
    assert busy_subject().request_ahead(0.05) is None, "they will last until the next time"


def test_permits_are_spent_while_the_next_ones_are_asked_for_and_what_is_left_goes_back_later() -> None:
    subject = busy_subject()
    ahead = subject.request_ahead(0.9)
    assert ahead is not None
    assert (ahead.want, ahead.back) == (math.ceil(HEADROOM * 60 / 0.9), 0)
    for _ in range(10):
        assert subject.spend(0.95) is not None
    subject.settle(charge(admitted=100, stamp=b"8"), ahead, sent_at=0.9, now=0.96)
    for _ in range(70):
        assert subject.spend(1.8) is not None, "the lease of the new ones counts"
    again = subject.request_ahead(1.85)
    assert again is not None
    assert (again.back, again.stamp) == (30, b"7")
    subject.settle(charge(admitted=120, stamp=b"9"), again, sent_at=1.85, now=1.86)
    lapsed = subject.request(3.0)
    assert (lapsed.back, lapsed.stamp) == (120, b"9")
    last = subject.request(3.1)
    assert (last.back, last.stamp) == (30, b"8")
    assert subject.request(3.2).back == 0


def test_no_to_a_question_asked_ahead_refuses_nobody() -> None:
    subject = busy_subject()
    ahead = subject.request_ahead(0.9)
    assert ahead is not None
    refusal = Charge(admitted=0, free=0, retry_after_s=30.0, next_free_s=0.0, stamp=b"8", ring=b"1")
    subject.settle(refusal, ahead, sent_at=0.9, now=0.95)
    for _ in range(40):
        assert subject.spend(0.96) is not None
    assert subject.spend(0.97) is None, "the next one asks for itself"


def test_what_a_late_answer_says_of_waiting_counts_from_when_it_is_heard() -> None:
    refused = Subject(terms(100, 60), "test")
    admitted = Subject(terms(100, 60, most=2, lease_s=1.0), "test")
    refusal = Charge(admitted=0, free=0, retry_after_s=30.0, next_free_s=0.0, stamp=b"8", ring=b"1")
    refused.settle(refusal, refused.request(0.0), sent_at=0.0, now=5.0)
    with pytest.raises(RateLimitExceeded) as error:
        refused.spend_alone(5.0)
    assert error.value.headers["Retry-After"] == "30"
    answer = Charge(admitted=2, free=0, retry_after_s=0.0, next_free_s=30.0, stamp=b"8", ring=b"1")
    admitted.settle(answer, admitted.request(0.0), sent_at=0.0, now=0.5)
    decision = admitted.spend(0.5)
    assert decision is not None
    assert decision.reset_s == 30


def test_few_permits_of_a_limit_that_is_nearly_reached_do_not_replace_more() -> None:
    subject = busy_subject()
    ahead = subject.request_ahead(0.9)
    assert ahead is not None
    subject.settle(charge(admitted=3, stamp=b"8"), ahead, sent_at=0.9, now=0.95)
    for _ in range(40):
        assert subject.spend(0.96) is not None
    back = subject.request(0.97)
    assert (back.back, back.stamp) == (3, b"8")


async def test_nothing_that_was_asked_for_ahead_is_lost(redis: RedisClient) -> None:
    limit, now_s = 10_000, 0.0
    limiter = ClassLimiter(terms(limit, 60, most=500, lease_s=0.3), redis=redis, monotonic=lambda: now_s)
    name, spent = f"test:{uuid4()}", 0
    for _ in range(5):
        for _ in range(300):
            now_s += 0.0002
            await limiter.admit(name)
        now_s += 0.1
        ahead, sent_at = limiter.request_ahead(name), now_s
        assert ahead is not None
        answer = asyncio.create_task(redis.eval(CHARGE, [ring_key(LimitClass.PROXY, name)], ahead.arguments()))
        await limiter.admit(name)
        limiter.settle(name, Charge.parse(await answer), ahead, sent_at=sent_at)
        spent += 301
    for _ in range(3):
        now_s += 0.35
        last = await limiter.admit(name)
        spent += 1
    assert last.remaining == limit - spent


def test_log_of_a_small_limit_is_exact_and_of_a_large_one_bounded() -> None:
    small, large = AdmissionLog(10.0, limit=3), AdmissionLog(10.0, limit=1000)
    for now in (0.0, 0.001, 9.0):
        small.add(now)
    assert small.count(10.0005) == 2
    assert math.isclose(small.wait_s(10.0005, room=1), 0.0005, abs_tol=1e-9)
    small.remove(9.0)
    assert small.count(10.0005) == 1
    for step in range(100_000):
        large.add(step / 1000)
    assert 10_000 <= large.count(100.0) <= 10_000 * (1 + 1 / 250)
    assert len(large._entries) <= 257
