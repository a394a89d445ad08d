"""One process that asks for one subject's permits as fast as it gets them, and writes down when each was spent.

usage: python -m tests.ratelimit.hammer CLASS[,CLASS…] SUBJECT    (settings from the environment)
Prints "ready", asks from the first line on stdin to the second, and then prints one JSON object, by class: the
monotonic times of the admissions in seconds (one clock for all processes of a machine), and how many calls of Redis
they took.
"""

import asyncio
import json
import sys
from collections.abc import Sequence

from zenzefi.errors import RedisUnavailable
from zenzefi.infra.logging import configure_logging
from zenzefi.infra.redis import Argument, RedisClient, Reply, Script
from zenzefi.ratelimit.errors import RateLimitExceeded
from zenzefi.ratelimit.limiter import Limiter
from zenzefi.ratelimit.ring import LimitClass
from zenzefi.settings import Settings

COROUTINES = 16
DEADLINE_S = 10.0


class CountingRedis(RedisClient):
    """Counts the calls."""

    calls = 0

    async def eval(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Argument] = ()) -> Reply:
        self.calls += 1
        return await super().eval(script, keys, args)


async def hammer(limit_classes: Sequence[LimitClass], subject: str) -> dict[str, object]:
    settings = Settings.from_env()
    # What a process does without an answer is shown elsewhere; here a machine that is too busy must not pass for that.
    clients = {limit_class: CountingRedis(settings, deadline_s=DEADLINE_S) for limit_class in limit_classes}
    for redis in clients.values():
        await connected(redis)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    end = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    spent = await asyncio.gather(
        *(spend_until(end, settings, limit_class, subject, redis) for limit_class, redis in clients.items())
    )
    for redis in clients.values():
        await redis.aclose()
    return {
        limit_class: {"spent": times, "calls": redis.calls}
        for (limit_class, redis), times in zip(clients.items(), spent, strict=True)
    }


async def spend_until(
    end: "asyncio.Task[str]", settings: Settings, limit_class: LimitClass, subject: str, redis: RedisClient
) -> list[float]:
    limiter = Limiter(settings, redis).get(limit_class)
    assert limiter is not None
    spent: list[float] = []

    async def ask() -> None:
        while not end.done():
            try:
                decision = await limiter.admit(subject)
            except RateLimitExceeded:
                await asyncio.sleep(0.005)
            else:
                # Not the time now: whoever is stopped right after a decision acts on it later, whatever decided.
                spent.append(decision.at)
                await asyncio.sleep(0)

    await asyncio.gather(*(ask() for _ in range(COROUTINES)))
    return spent


async def connected(redis: RedisClient) -> None:
    """Wait until Redis answers: eight processes that start at once on two cores are slow at first."""
    while True:
        try:
            await redis.run("PING")
        except RedisUnavailable:
            await asyncio.sleep(0.1)
        else:
            return


def main() -> None:
    configure_logging("info")
    limit_classes, subject = sys.argv[1:]
    found = asyncio.run(hammer([LimitClass(name) for name in limit_classes.split(",")], subject))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
