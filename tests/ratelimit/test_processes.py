"""Exact over processes: whatever they do together, no window holds more than the limit."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 8


def most_in_a_window(times: list[float], window_s: float) -> int:
    """The most admissions that any half-open window of this length holds."""
    times = sorted(times)
    most = oldest = 0
    for newest, instant in enumerate(times):
        while times[oldest] <= instant - window_s:
            oldest += 1
        most = max(most, newest - oldest + 1)
    return most


class Hammers:
    """Several processes that ask for the same subject at once, in one class or, with `others`, in several."""

    def __init__(
        self,
        env: Mapping[str, str],
        limit_class: str,
        limit: int,
        window_s: int,
        *,
        others: Mapping[str, int] = MappingProxyType({}),
        processes: int = PROCESSES,
    ) -> None:
        self.subject = f"test:{uuid4()}"
        self._limit_class = limit_class
        limits = {limit_class: limit, **others}
        variables = {f"RATE_LIMIT_{name.upper()}": f"{most}/{window_s}" for name, most in limits.items()}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.ratelimit.hammer", ",".join(limits), self.subject],
                env={**os.environ, **env, **variables, "RATE_LIMIT_PROCESSES": str(processes)},
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(processes)
        ]

    def start(self) -> None:
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        self._tell_all()

    def _tell_all(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

    def __enter__(self) -> "Hammers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def results(self) -> tuple[list[float], int]:
        """End them: when each permit was spent, and how many calls of Redis it took."""
        return self.results_by_class()[self._limit_class]

    def results_by_class(self) -> dict[str, tuple[list[float], int]]:
        self._tell_all()
        found: dict[str, tuple[list[float], int]] = {}
        for process in self.processes:
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            for name, part in json.loads(out).items():
                spent, calls = found.get(name, ([], 0))
                found[name] = (spent + part["spent"], calls + part["calls"])
        return found


def test_eight_processes_admit_the_limit_of_each_class_and_not_one_more(env: dict[str, str]) -> None:
    window_s = 2
    limits = {"auth": 5, "api": 100, "proxy": 1000}
    with Hammers(env, "proxy", 1000, window_s, others={"auth": 5, "api": 100}) as hammers:
        hammers.start()
        time.sleep(2.4 * window_s)
        found = hammers.results_by_class()
    assert {name: most_in_a_window(spent, window_s) for name, (spent, _) in found.items()} == limits
    spent, calls = found["proxy"]
    assert calls < len(spent) / 2, "leases make for few calls, even where all are denied most of the time"


def test_processes_that_are_stopped_between_lease_and_spend_do_not_spend_what_has_lapsed(env: dict[str, str]) -> None:
    limit, window_s = 500, 1
    with Hammers(env, "proxy", limit, window_s, processes=4) as hammers:
        hammers.start()
        for number in range(5):
            # All are stopped in the middle of spending, until the ring has forgotten what they hold: that would come on
            # top of a full new window.
            time.sleep(0.004 + 0.004 * (number % 4))
            for process in hammers.processes:
                process.send_signal(signal.SIGSTOP)
            time.sleep(window_s * 1.1 + 0.02)
            for process in hammers.processes:
                process.send_signal(signal.SIGCONT)
        time.sleep(3 * window_s)  # in which they spend all there is, even if this machine stands still for a second
        spent, _ = hammers.results()
    assert limit / 2 < most_in_a_window(spent, window_s) <= limit
