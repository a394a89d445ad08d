"""Who is signed in, as a process remembers it for a moment."""

from uuid import UUID, uuid4

import pytest

from tests.support.accounts import ban, claims_of
from tests.support.people import Person
from zenzefi.accounts import service
from zenzefi.accounts.identities import MAX_ENTRIES, TTL_S, IdentityCache
from zenzefi.context import Context, open_context
from zenzefi.settings import Settings
from zenzefi.web.identity import Identity


class ManualClock:
    """A monotonic clock that stands still until it is told to go on."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def identity() -> Identity:
    return Identity(user_id=uuid4(), login_id=uuid4(), is_superuser=False)


def test_an_identity_is_remembered_for_less_than_a_second() -> None:
    clock = ManualClock()
    cache, known = IdentityCache(clock), identity()
    cache.remember(known, known_since_s=cache.now_s())
    clock.now_s += TTL_S - 0.001
    assert cache.find(known.login_id) == known
    clock.now_s += 0.002
    assert cache.find(known.login_id) is None
    assert len(cache) == 0
    assert TTL_S < 1


def test_an_identity_is_as_old_as_the_query_that_found_it() -> None:
    clock = ManualClock()
    cache, known = IdentityCache(clock), identity()
    asked_at_s = cache.now_s()
    clock.now_s += TTL_S + 0.001
    cache.remember(known, known_since_s=asked_at_s)
    assert cache.find(known.login_id) is None


def test_the_oldest_go_first_when_there_are_too_many() -> None:
    cache, known = IdentityCache(ManualClock()), [identity() for _ in range(MAX_ENTRIES + 5)]
    for one in known[:MAX_ENTRIES]:
        cache.remember(one, known_since_s=cache.now_s())
    cache.remember(known[0], known_since_s=cache.now_s())  # anew: it is the youngest now
    for one in known[MAX_ENTRIES:]:
        cache.remember(one, known_since_s=cache.now_s())
    assert len(cache) == MAX_ENTRIES
    assert cache.find(known[0].login_id) == known[0]
    assert [cache.find(one.login_id) for one in known[1:6]] == [None] * 5
    assert cache.find(known[-1].login_id) == known[-1]


def test_ended_logins_are_forgotten() -> None:
    cache, known = IdentityCache(ManualClock()), identity()
    cache.remember(known, known_since_s=cache.now_s())
    cache.forget([known.login_id, uuid4()])
    assert cache.find(known.login_id) is None


async def test_a_login_vouches_for_its_own_user_alone(ctx: Context, person: Person) -> None:
    claims = claims_of(person.access_token)
    user_id, login_id = UUID(claims["sub"]), UUID(claims["sid"])
    for _ in range(2):  # from the database, then from memory
        assert await service.find_identity(ctx, user_id=uuid4(), login_id=login_id) is None
        found = await service.find_identity(ctx, user_id=user_id, login_id=login_id)
        assert found == Identity(user_id=user_id, login_id=login_id, is_superuser=False)
    assert await service.find_identity(ctx, user_id=user_id, login_id=uuid4()) is None


async def test_a_process_asks_the_database_once_in_a_while_and_learns_of_a_ban_within_a_second(
    settings: Settings, ctx: Context, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()  # a busy machine may take a second for a query
    claims = claims_of(person.access_token)
    user_id, login_id = UUID(claims["sub"]), UUID(claims["sid"])
    async with open_context(settings) as other_process:
        for process in (ctx, other_process):
            process.local(IdentityCache).forget([login_id])
            monkeypatch.setattr(process.local(IdentityCache), "_monotonic", clock)
            assert await service.find_identity(process, user_id=user_id, login_id=login_id) is not None
        await ban(ctx, person.user_id)
        for process in (ctx, other_process):
            remembered = await service.find_identity(process, user_id=user_id, login_id=login_id)
            assert remembered is not None, "found anew, so each request costs a query"
        clock.now_s += 1.0
        for process in (ctx, other_process):
            assert await service.find_identity(process, user_id=user_id, login_id=login_id) is None


async def test_each_process_has_a_memory_of_its_own(settings: Settings, ctx: Context) -> None:
    assert ctx.local(IdentityCache) is ctx.local(IdentityCache)
    async with open_context(settings) as other_process:
        assert other_process.local(IdentityCache) is not ctx.local(IdentityCache)
