"""What an installation bears: the journeys of real users by Locust, 100 of them for five minutes, then ever more."""

import os

import psutil

from loadtest.figures import Bench, Figure
from loadtest.knee import PER_USER, WORST_P95_MS, Locusts, prepare_locusts
from loadtest.locusts import Counted
from loadtest.programs import Served, whole_installation

HEADLINES = ("sustained load", "its p50", "its p95", "its p99", "its errors", "knee", "cost of a request, web")
USERS = 100


async def run(bench: Bench) -> list[Figure]:
    """One installation with a process per core: a sustained load, what it takes of each part, and where the knee is."""
    users, seconds, people, step_s, most_steps = (3, 2, 20, 1, 1) if bench.quick else (USERS, 300, 1000, 20, 20)
    processes = 1 if bench.quick else len(os.sched_getaffinity(0))
    bench.tell("starting")
    async with whole_installation(bench, "bench_mix", processes=processes) as (served, environment):
        locusts = await prepare_locusts(bench, environment, url=served.url, people=people)
        bench.tell(f"{users} users for {seconds} s")
        before = _cpu_s(bench, served)
        counted = await locusts.load(users=users, seconds=seconds)
        spent = {part: now - before[part] for part, now in _cpu_s(bench, served).items()}
        method = (
            f"{users} users of {PER_USER} req/s for {seconds} s by Locust, {processes} web processes, {people} people"
        )
        return [
            *_sustained(counted, method),
            *_costs(spent, counted, method),
            Figure(
                name="memory of a web process",
                value=max(served.memory_bytes()) / 1024**2,
                unit="MiB",
                method=f"resident, the largest after {method}",
            ),
            *await _knee(locusts, users=users, step_s=step_s, most_steps=most_steps),
        ]


def _sustained(counted: Counted, method: str) -> list[Figure]:
    times = (("p50", counted.p50_ms), ("p95", counted.p95_ms), ("p99", counted.p99_ms))
    return [
        Figure(
            name="sustained load",
            value=counted.per_second,
            unit="req/s",
            method=f"{method}; Locust took {100 * counted.busy:.0f} % of a core",
        ),
        *(
            Figure(name=f"its {name}", value=found, unit="ms", method=f"of all requests; {method}")
            for name, found in times
        ),
        Figure(
            name="its errors",
            value=counted.error_percent,
            unit="%",
            method=f"{counted.tell_failures()}; {method}",
        ),
    ]


def _costs(spent: dict[str, float], counted: Counted, method: str) -> list[Figure]:
    return [
        Figure(
            name=f"cost of a request, {part}",
            value=cpu_s / counted.requests * 1e6,
            unit="µs of CPU",
            method=f"CPU time of all its processes per request of the mix; {method}",
        )
        for part, cpu_s in spent.items()
    ]


async def _knee(locusts: Locusts, *, users: int, step_s: int, most_steps: int) -> list[Figure]:
    knee = await locusts.find_knee(users=users, seconds=step_s, most_steps=most_steps)
    rule = f"the most users in steps of a quarter, {step_s} s each, with p95 ≤{WORST_P95_MS:g} ms and no error"
    method = f"{rule}; Locust took {100 * knee.locust_busy:.0f} % of a core then; {'; '.join(knee.steps)}"
    return [
        Figure(name="knee", value=knee.per_second, unit="req/s", method=method),
        Figure(name="knee, users", value=knee.users, unit="users", method=rule),
    ]


def _cpu_s(bench: Bench, served: Served) -> dict[str, float]:
    """What each part has taken so far."""
    servers = bench.servers
    return {
        "web": served.cpu_s(),
        "PostgreSQL": _family_cpu_s(servers.postgres.child.pid),
        "Valkey": _family_cpu_s(servers.valkey.child.pid),
    }


def _family_cpu_s(pid: int) -> float:
    process = psutil.Process(pid)
    times = [member.cpu_times() for member in (process, *process.children(recursive=True))]
    # Those of backends that have ended count with the process that waited for them.
    return sum(time.user + time.system + time.children_user + time.children_system for time in times)
