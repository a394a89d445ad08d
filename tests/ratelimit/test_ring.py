"""The ring against a brute-force log of all admissions."""

from typing import cast

import redis as redis_py
from hypothesis import given, settings
from hypothesis import strategies as st

from zenzefi.infra.redis import Script
from zenzefi.ratelimit.ring import RING_LUA

# The clock is an argument here, so that time can step as the example wants it.
CHARGE = Script(
    RING_LUA
    + """
return ring_charge(KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]),
  tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]))
"""
)
START = 1_000_000_000


def charge(client: "redis_py.Redis", *arguments: int) -> list[int]:
    """Limit, window in µs, want, least, debt, history, and the time in µs."""
    reply = client.eval(CHARGE.text, 1, "ring", *(str(argument) for argument in arguments))
    return [int(part) for part in cast("list[int]", reply)]


class Log:
    """All admissions, and what follows from them."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.last = 0

    def now(self, told: int) -> int:
        return max(told, self.last)

    def used(self, now: int, window: int) -> int:
        return sum(1 for time in self.times if time > now - window)


steps = st.lists(
    st.tuples(
        st.integers(-8, 40),  # µs since the last step; negative: the clock steps back
        st.integers(1, 5),  # want
        st.integers(1, 3),  # least
        st.sampled_from([None, None, None, 1, 2, 3, 5, 8]),  # another limit from here on
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(limit=st.integers(1, 8), window=st.integers(1, 60), steps=steps)
def test_ring_admits_what_the_log_would_and_never_more(
    ring_client: "redis_py.Redis", limit: int, window: int, steps: list[tuple[int, int, int, int | None]]
) -> None:
    ring_client.delete("ring")
    told, log = START, Log()
    for step, want_at_most, least_wanted, new_limit in steps:
        told += step
        limit = new_limit or limit
        least = min(least_wanted, limit)
        want = max(want_at_most, least)
        now = log.now(told)
        free = max(0, limit - log.used(now, window))
        reply = charge(ring_client, limit, window, want, least, 0, 0, told)
        admitted, left, retry_after = reply[0], reply[1], reply[2]
        assert (admitted >= least) == (free >= least)
        if admitted:
            assert admitted <= min(want, free)
            log.times += [now] * admitted
            log.last = now
            assert left == free - admitted, "the limit is never passed, not even when it was lowered and raised again"
        else:
            # Exactly then, and not a microsecond earlier.
            assert limit - log.used(now + retry_after, window) >= least
            assert retry_after == 1 or limit - log.used(now + retry_after - 1, window) < least
            assert left == free
    # No window of the whole history holds more than the largest limit in force in it.
    if all(new is None for *_, new in steps):
        for time in log.times:
            assert sum(1 for other in log.times if time - window < other <= time) <= limit


def test_debt_is_charged_first_and_history_only_to_a_lost_ring(ring_client: "redis_py.Redis") -> None:
    ring_client.delete("ring")
    assert charge(ring_client, 10, 1000, 1, 1, 3, 4, START)[:2] == [1, 2]
    assert charge(ring_client, 10, 1000, 1, 1, 1, 4, START)[:2] == [1, 0]
    assert charge(ring_client, 10, 1000, 1, 1, 0, 0, START)[:3] == [0, 0, 1000]


def test_rejected_request_writes_nothing(ring_client: "redis_py.Redis") -> None:
    ring_client.delete("ring")
    charge(ring_client, 3, 10_000_000, 3, 3, 0, 0, START)
    before, life = ring_client.get("ring"), cast(int, ring_client.pttl("ring"))
    for later in range(1, 50):
        assert charge(ring_client, 3, 10_000_000, 1, 1, 0, 0, START + later)[0] == 0
    assert ring_client.get("ring") == before
    assert cast(int, ring_client.pttl("ring")) <= life


def test_ring_of_a_thousand_has_eight_kilobytes(ring_client: "redis_py.Redis") -> None:
    ring_client.delete("ring")
    for _ in range(100):
        charge(ring_client, 1000, 60_000_000, 40, 1, 0, 0, START)
    assert ring_client.strlen("ring") == 16 + 8 * 1000
