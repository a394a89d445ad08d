"""A long load at 70 % of the knee: whether memory and descriptors stay, and how late the event loop gets."""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from loadtest.figures import Bench, Figure
from loadtest.knee import Locusts, prepare_locusts
from loadtest.locusts import Counted
from loadtest.programs import Served, whole_installation

HEADLINES = ("change of memory", "change of descriptors", "event loop lag")
SHARE = 0.7
_LAG = "zenzefi_event_loop_lag_seconds_bucket"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The web processes at one moment."""

    at_s: float
    memory: Sequence[int]
    descriptors: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How long each part takes."""

    knee_step_s: int
    knee_steps: int
    knee_users: int
    seconds: int
    settling_s: float
    sample_s: float


_FULL = Length(knee_step_s=20, knee_steps=20, knee_users=100, seconds=1800, settling_s=300.0, sample_s=10.0)
_QUICK = Length(knee_step_s=1, knee_steps=0, knee_users=3, seconds=3, settling_s=1.0, sample_s=0.5)


async def run(bench: Bench) -> list[Figure]:
    """Find the knee, then load for half an hour at 70 % of it; what is compared begins after five minutes."""
    length = _QUICK if bench.quick else _FULL
    processes = 1 if bench.quick else len(os.sched_getaffinity(0))
    bench.tell("starting")
    async with whole_installation(bench, "bench_soak", processes=processes) as (served, environment):
        locusts = await prepare_locusts(bench, environment, url=served.url, people=20 if bench.quick else 1000)
        knee = await locusts.find_knee(
            users=length.knee_users, seconds=length.knee_step_s, most_steps=length.knee_steps
        )
        users = max(round(knee.users * SHARE), 1)
        counted, samples, lag_p99_s = await _soak(bench, locusts, served, users=users, length=length)
    method = (
        f"{users} users, {SHARE:.0%} of the knee, for {length.seconds} s at {counted.per_second:.0f} req/s, "
        f"{processes} web processes, from {length.settling_s:g} s on"
    )
    return [
        Figure(
            name="change of memory",
            value=max(_changes(samples), key=abs),
            unit="%",
            method=f"resident memory of the process that changed most, the last minute beside the first; {method}",
        ),
        Figure(
            name="memory of a web process",
            value=max(max(sample.memory) for sample in samples) / 1024**2,
            unit="MiB",
            method=f"the most at any moment; {method}",
        ),
        Figure(
            name="change of descriptors",
            value=fmean(samples[-1].descriptors) - fmean(samples[0].descriptors),
            unit="a process",
            method=f"open files and sockets at the end beside the beginning; {method}",
        ),
        Figure(name="event loop lag", value=lag_p99_s * 1000, unit="ms", method=f"p99 of ten looks a second; {method}"),
        Figure(name="p99 of all requests", value=counted.p99_ms, unit="ms", method=method),
        Figure(name="errors", value=counted.error_percent, unit="%", method=f"{counted.tell_failures()}; {method}"),
    ]


async def _soak(
    bench: Bench, locusts: Locusts, served: Served, *, users: int, length: Length
) -> tuple[Counted, list[Sample], float]:
    """What was counted, the samples from when all had settled, and the 99th percentile of the lag from then on."""
    began_s = time.monotonic()
    loading = asyncio.create_task(locusts.load(users=users, seconds=length.seconds))
    settled: dict[str, float] | None = None
    samples: list[Sample] = []
    lag: dict[str, float] = {}
    try:
        while not loading.done():
            await asyncio.wait([loading], timeout=length.sample_s)
            elapsed_s = time.monotonic() - began_s
            bench.tell(f"{users} users, {elapsed_s:.0f} of {length.seconds} s")
            if loading.done() or elapsed_s < length.settling_s:
                continue
            lag = dict(await served.metric(_LAG))
            settled = lag if settled is None else settled
            samples.append(Sample(at_s=elapsed_s, memory=served.memory_bytes(), descriptors=served.descriptors()))
        counted = await loading
    finally:
        loading.cancel()
    if settled is None or len(samples) < 2:
        raise RuntimeError("The load ended before anything settled.")
    return counted, samples, _p99_s({bound: count - settled[bound] for bound, count in lag.items()})


def _changes(samples: Sequence[Sample]) -> list[float]:
    """By how many percent each process's memory changed from the first minute to the last one, by their means."""
    first = [sample for sample in samples if sample.at_s <= samples[0].at_s + 60]
    last = [sample for sample in samples if sample.at_s >= samples[-1].at_s - 60]
    return [
        100 * (fmean(sample.memory[place] for sample in last) / fmean(sample.memory[place] for sample in first) - 1)
        for place in range(len(samples[0].memory))
    ]


def _p99_s(buckets: dict[str, float]) -> float:
    """The 99th percentile of a histogram, by interpolation within its bucket, as Prometheus does it."""
    counts = sorted((float(labels.partition('le="')[2].partition('"')[0]), count) for labels, count in buckets.items())
    wanted, below_s, below = 0.99 * counts[-1][1], 0.0, 0.0
    for bound_s, count in counts:
        if count >= wanted:
            finite_s = below_s if bound_s == float("inf") else bound_s
            return below_s + (finite_s - below_s) * (wanted - below) / max(count - below, 1)
        below_s, below = bound_s, count
    return below_s
