"""The ring against a brute-force log of all admissions."""

from typing import cast

import redis as redis_py
from hypothesis import given, settings
from hypothesis import strategies as st

from zenzefi.infra.redis import Script
from zenzefi.ratelimit.ring import RING_LUA, Charge, ChargeRequest

# The clock is an argument here, so that time can step as the example wants it.
CHARGE = Script(RING_LUA + "return ring_charge(KEYS[1], ARGV, 1, tonumber(ARGV[10]))")
# A ring lives for a second beyond its window, by the server's clock, and that is how long this machine may stand still.
CHARGE_FOR_EVER = Script(
    RING_LUA
    + """
local reply = ring_charge(KEYS[1], ARGV, 1, tonumber(ARGV[10]))
redis.call('PERSIST', KEYS[1])
return reply
"""
)
START = 1_000_000_000


def ask(client: "redis_py.Redis", request: ChargeRequest, now: int, *, script: Script = CHARGE_FOR_EVER) -> Charge:
    """Charge at a time in µs."""
    reply = client.eval(script.text, 1, "ring", *cast("tuple[str, ...]", (*request.arguments(), now)))
    return Charge.parse(reply)


class Log:
    """All admissions, and what follows from them."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.last = 0

    def now(self, told: int) -> int:
        return max(told, self.last)

    def add(self, count: int, now: int) -> None:
        self.times += [now] * count
        if count:
            self.last = now

    def owe(self, count: int, now: int, *, size: int) -> None:
        """Add what was admitted without asking, which may be too much for the ring: it holds the last of them."""
        self.add(min(count, size), now)
        if count:
            self.times = sorted(self.times)[-size:]

    def take_back(self, count: int, stamp: int) -> None:
        for _ in range(min(count, self.times.count(stamp))):
            self.times.remove(stamp)

    def used(self, now: int, window: int) -> int:
        return sum(1 for time in self.times if time > now - window)


steps = st.lists(
    st.tuples(
        st.integers(-8, 40),  # µs since the last step; negative: the clock steps back
        st.integers(1, 5),  # want
        st.integers(1, 3),  # least
        st.sampled_from([None, None, None, 1, 2, 3, 5, 8]),  # another limit from here on
        st.sampled_from([0, 0, 0, 1, 2, 9]),  # debt
        st.none() | st.tuples(st.integers(1, 3), st.integers(0, 3)),  # how many of the n-th last charge go back
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(limit=st.integers(1, 8), window=st.integers(1, 60), steps=steps)
def test_ring_admits_what_the_log_would_and_never_more(
    ring_client: "redis_py.Redis",
    limit: int,
    window: int,
    steps: list[tuple[int, int, int, int | None, int, tuple[int, int] | None]],
) -> None:
    ring_client.delete("ring")
    told, log, largest = START, Log(), 0
    unspent: list[list[int]] = []  # time and number of each charge
    for step, want_at_most, least_wanted, new_limit, debt, returned in steps:
        told += step
        limit = new_limit or limit
        largest = max(limit, largest)
        least = min(least_wanted, limit)
        now = log.now(told)
        back, stamp = 0, b"0"
        if returned is not None and returned[1] < len(unspent):
            lot = unspent[-1 - returned[1]]
            back, stamp = min(returned[0], lot[1]), b"%d" % lot[0]
            lot[1] -= back
            log.take_back(back, lot[0])
        log.owe(debt, now, size=largest)
        free = max(0, limit - log.used(now, window))
        charge = ask(
            ring_client,
            ChargeRequest(
                limit=limit,
                window_us=window,
                want=max(want_at_most, least),
                least=least,
                debt=debt,
                back=back,
                stamp=stamp,
            ),
            told,
        )
        retry_after = round(charge.retry_after_s * 1e6)
        assert (charge.admitted >= least) == (free >= least)
        if charge.admitted:
            assert charge.admitted <= min(max(want_at_most, least), free)
            assert charge.stamp == b"%d" % now
            log.add(charge.admitted, now)
            unspent.append([now, charge.admitted])
        else:
            # Exactly then, and not a microsecond earlier.
            assert limit - log.used(now + retry_after, window) >= least
            assert retry_after == 1 or limit - log.used(now + retry_after - 1, window) < least
        assert charge.free == free - charge.admitted, "it forgets nothing, not even when lowered and raised again"
        if charge.admitted:
            oldest = min(time for time in log.times if time > now - window)
            assert round(charge.next_free_s * 1e6) == oldest + window - now
    assert cast(int, ring_client.strlen("ring")) <= 24 + 8 * largest


def test_debt_is_charged_first_and_history_only_to_another_ring(ring_client: "redis_py.Redis") -> None:
    def charged(*, debt: int, history: int, ring: bytes) -> Charge:
        request = ChargeRequest(
            limit=10, window_us=1000, want=1, least=1, debt=debt, history=history, ring=ring, stamp=b"0"
        )
        return ask(ring_client, request, START)

    ring_client.delete("ring")
    first = charged(debt=1, history=2, ring=b"")
    assert (first.admitted, first.free) == (1, 6)
    assert charged(debt=0, history=2, ring=first.ring).free == 5
    # Another process has not heard yet that the ring was lost: what it remembers counts, too.
    assert charged(debt=0, history=3, ring=b"999").free == 1
    # More than was allowed has been admitted without Redis: all of it stands in the way.
    last = charged(debt=9, history=0, ring=first.ring)
    assert (last.admitted, last.free, last.retry_after_s) == (0, 0, 0.001)


def test_rejected_request_writes_nothing_and_a_ring_lives_as_long_as_its_window(ring_client: "redis_py.Redis") -> None:
    def charge(now: int, limit: int = 3) -> int:
        request = ChargeRequest(limit=limit, window_us=10_000_000, want=3, least=3)
        return ask(ring_client, request, now, script=CHARGE).admitted

    ring_client.delete("ring")
    assert charge(START) == 3
    before, life = ring_client.get("ring"), cast(int, ring_client.pttl("ring"))
    assert 10_000 < life <= 11_000
    for later in range(1, 50):
        assert charge(START + later) == 0
    assert ring_client.get("ring") == before
    assert cast(int, ring_client.pttl("ring")) <= life
    # Growing neither prolongs its life nor makes it eternal.
    assert charge(START + 50, limit=5) == 0
    assert 0 < cast(int, ring_client.pttl("ring")) <= life


def test_ring_of_a_thousand_has_eight_kilobytes(ring_client: "redis_py.Redis") -> None:
    ring_client.delete("ring")
    for step in range(100):
        ask(ring_client, ChargeRequest(limit=1000, window_us=100, want=40, least=1), START + 10 * step)
    assert ring_client.strlen("ring") == 24 + 8 * 1000
