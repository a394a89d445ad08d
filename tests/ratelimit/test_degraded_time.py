"""For how long a limit was degraded is counted while it is, and to its end."""

import asyncio
import dataclasses

from tests.ratelimit.test_limiter import terms
from zenzefi.devstack.ports import find_free_port
from zenzefi.infra.instruments import RATE_LIMIT_DEGRADED, RATE_LIMIT_DEGRADED_TIME
from zenzefi.infra.redis import RedisClient
from zenzefi.ratelimit.limiter import ClassLimiter
from zenzefi.ratelimit.ring import LimitClass
from zenzefi.settings import Settings


async def test_time_without_redis_is_counted(settings: Settings) -> None:
    now_s = 100.0
    gauge, counter = (metric.labels(LimitClass.PROXY) for metric in (RATE_LIMIT_DEGRADED, RATE_LIMIT_DEGRADED_TIME))
    counted_before = counter.cells[counter.at]

    def counted() -> float:
        # Other tests of this process have counted, too: without their fractions, which a difference may leave a bit of.
        return round(counter.cells[counter.at] - counted_before, 6)

    away = RedisClient(dataclasses.replace(settings, redis_port=find_free_port()))
    limiter = ClassLimiter(terms(1000, 60), redis=away, monotonic=lambda: now_s)
    now_s += 50
    limiter.sample()
    assert (gauge.cells[gauge.at], counted()) == (0, 0)
    await limiter.admit("somebody")
    await asyncio.sleep(0)  # it begins to wait for Redis
    now_s += 3
    limiter.sample()
    assert (gauge.cells[gauge.at], counted()) == (1, 3)
    now_s += 1.5
    await limiter.aclose()
    assert counted() == 4.5
    now_s += 10
    limiter.sample()
    assert (gauge.cells[gauge.at], counted()) == (0, 4.5)
    await away.aclose()
