"""What a process tells of itself, and what is told of Redis and the limits while Redis is away."""

import asyncio
import dataclasses
import time
from pathlib import Path

from tests.support.exposition import Series, parse, total
from zenzefi.context import Context, open_context
from zenzefi.devstack.ports import find_free_port
from zenzefi.infra.exposition import render
from zenzefi.infra.http import BREAKER_FAILURES, UpstreamConnector
from zenzefi.infra.instruments import REGISTRY
from zenzefi.ratelimit.ring import LimitClass
from zenzefi.ratelimit.service import admit
from zenzefi.settings import RateLimit, Settings


def shown() -> dict[Series, float]:
    return parse("".join(render(REGISTRY)))


async def test_figures_of_the_process_are_those_of_the_kernel(ctx: Context) -> None:
    assert ctx.samplers, "the gauges are set for as long as there is a context"
    begun_s = time.time()
    async with asyncio.timeout(30):
        # What is shown may be what another test has left behind.
        while total(samples := shown(), "zenzefi_process_sampled_timestamp_seconds") < begun_s:  # noqa: ASYNC110  it is silent
            await asyncio.sleep(0.05)
    assert abs(total(samples, "process_open_fds") - sum(1 for _ in Path("/proc/self/fd").iterdir())) < 20
    assert 10e6 < total(samples, "process_resident_memory_bytes") < 4e9
    assert 0 < total(samples, "process_cpu_seconds_total") <= time.process_time()
    assert _boot_time() < total(samples, "process_start_time_seconds") < time.time()
    assert total(samples, "zenzefi_upstream_breaker_state") == 1, "it is in one state, whatever other tests have done"
    assert total(samples, "zenzefi_db_pool_max_connections") >= total(samples, "zenzefi_db_pool_connections") >= 1


async def test_a_blocked_event_loop_is_seen(ctx: Context) -> None:
    assert ctx.samplers
    before = shown()
    await asyncio.sleep(0)
    time.sleep(0.35)  # as a defect would: three looks are due in this time
    await asyncio.sleep(0.05)
    late = total(shown(), "zenzefi_event_loop_lag_seconds_sum") - total(before, "zenzefi_event_loop_lag_seconds_sum")
    assert late > 0.2


async def test_state_of_the_breaker_is_shown(settings: Settings) -> None:
    async with open_context(settings) as ctx:
        connector = ctx.upstream.connector
        assert isinstance(connector, UpstreamConnector)
        # Nothing is awaited from here on: the looks of other contexts must not come in between.
        assert _breaker_states(ctx) == {"closed": 1, "half_open": 0, "open": 0}
        for _ in range(BREAKER_FAILURES):
            connector.breaker.record_failure()
        assert _breaker_states(ctx) == {"closed": 0, "half_open": 0, "open": 1}


def _breaker_states(ctx: Context) -> dict[str, float]:
    sample_now(ctx)
    samples = shown().items()
    return {dict(labels)["state"]: n for (name, labels), n in samples if name == "zenzefi_upstream_breaker_state"}


def sample_now(ctx: Context) -> None:
    for sample in ctx.samplers:
        sample()


async def test_dead_redis_shows_in_calls_and_limits(settings: Settings) -> None:
    dead = dataclasses.replace(settings, redis_port=find_free_port(), rate_limit_api=RateLimit(limit=1000, window_s=60))
    before = shown()
    async with open_context(dead) as ctx:
        for _ in range(5):
            await admit(ctx, LimitClass.API, "user:nobody")
        sample_now(ctx)
        after = shown()

    def grown(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    assert grown("zenzefi_redis_calls_total", outcome="failed") >= 1
    assert grown("zenzefi_redis_calls_total", outcome="not_tried") >= 1
    assert grown("zenzefi_ratelimit_decisions_total", **{"class": "api", "outcome": "admitted"}) == 5
    assert total(after, "zenzefi_ratelimit_degraded", **{"class": "api"}) == 1


def _boot_time() -> float:
    with Path("/proc/stat").open() as stat:
        return next(float(line.split()[1]) for line in stat if line.startswith("btime "))
