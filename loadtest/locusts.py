"""Locust as a process of its own, headless: started with a plan, and what it counted."""

import asyncio
import json
import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_STOP_S = 10  # for requests that are on their way when the time is over


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """All requests together. Times in milliseconds; `busy` is the share of one core that Locust itself took.

    `failed` has those that failed, by the name of the request.
    """

    requests: int
    failed: Mapping[str, int]
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    busy: float

    @property
    def failures(self) -> int:
        """How many failed."""
        return sum(self.failed.values())

    @property
    def error_percent(self) -> float:
        """How many of a hundred failed."""
        return 100 * self.failures / self.requests

    def tell_failures(self) -> str:
        """Of how many requests which failed how often, for a person."""
        told = ", ".join(f"{name} {count:,} times" for name, count in sorted(self.failed.items()))
        return f"of {self.requests:,} requests" + (f" failed: {told}" if told else "")


def locust_command(*, is_steady: bool, report: Path | None = None, counted: Path | None = None) -> list[str]:
    """What to execute: the variables LOADTEST_… say how many users there are, and for how long."""
    command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--headless", "--stop-timeout", str(_STOP_S)]
    if is_steady:
        command += ["--reset-stats"]  # once all users are there; with another shape that would be at its every change
    if report is not None:
        command += ["--html", str(report)]
    if counted is not None:
        command += ["--json-file", str(counted.with_suffix(""))]
    return command


async def run_locust(environment: Mapping[str, str], *, directory: Path, users: int, seconds: int) -> Counted:
    """Load steadily for so many seconds, after all users have come; when it is cancelled, Locust is ended at once.

    No other child of this process may end meanwhile: its CPU time would be taken for Locust's.

    Raises:
        RuntimeError: Locust made no request.
    """
    counted = directory / f"locust-{users}.json"
    counted.unlink(missing_ok=True)
    plan = {"LOADTEST_SHAPE": "steady", "LOADTEST_USERS": str(users), "LOADTEST_SECONDS": str(seconds)}
    before_s = _children_cpu_s()
    with (directory / "locust.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *locust_command(is_steady=True, counted=counted),
            "--only-summary",
            env={**os.environ, **environment, **plan},
            cwd=_ROOT,
            stdout=log,
            stderr=log,
        )
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
    entries = json.loads(counted.read_text(encoding="utf-8")) if counted.exists() else []
    if not sum(entry["num_requests"] for entry in entries):
        raise RuntimeError(f"Locust made no request:\n{(directory / 'locust.log').read_text()[-2000:]}")
    return _count(entries, cpu_s=_children_cpu_s() - before_s)


def _children_cpu_s() -> float:
    """What the children that have ended took."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _count(entries: list[dict[str, object]], *, cpu_s: float) -> Counted:
    times: dict[float, int] = {}
    requests = 0
    failed: dict[str, int] = {}
    begun, ended = float("inf"), 0.0
    for entry in entries:
        requests += int(str(entry["num_requests"]))
        if failures := int(str(entry["num_failures"])):
            name = str(entry["name"])
            failed[name] = failed.get(name, 0) + failures
        begun = min(begun, float(str(entry["start_time"])))
        ended = max(ended, float(str(entry["last_request_timestamp"] or 0)))
        histogram = entry["response_times"]
        assert isinstance(histogram, dict)
        for time_ms, count in histogram.items():
            times[float(time_ms)] = times.get(float(time_ms), 0) + count
    took_s = max(ended - begun, 0.001)
    p50_ms, p95_ms, p99_ms = (_quantile(times, share) for share in (0.5, 0.95, 0.99))
    return Counted(
        requests=requests,
        failed=failed,
        per_second=requests / took_s,
        p50_ms=p50_ms,
        p95_ms=p95_ms,
        p99_ms=p99_ms,
        busy=cpu_s / took_s,
    )


def _quantile(times: Mapping[float, int], share: float) -> float:
    """The least time that so great a share of the requests did not exceed."""
    wanted, seen = share * sum(times.values()), 0
    for time_ms in sorted(times):
        seen += times[time_ms]
        if seen >= wanted:
            return time_ms
    return 0.0
