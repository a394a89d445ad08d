"""Exact over processes: whatever they do together, no window holds more than the limit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

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
    """Several processes that ask for the same subject at once."""

    def __init__(self, env: dict[str, str], limit_class: str, limit: int, window_s: int, seconds: float) -> None:
        arguments = (limit_class, f"test:{uuid4()}", str(seconds))
        limits = {
            f"RATE_LIMIT_{limit_class.upper()}": f"{limit}/{window_s}",
            "RATE_LIMIT_PROCESSES": str(PROCESSES),
        }
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.ratelimit.hammer", *arguments],
                env={**os.environ, **env, **limits},
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(PROCESSES)
        ]

    def start(self) -> None:
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
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
        spent: list[float] = []
        calls = 0
        for process in self.processes:
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            found = json.loads(out)
            spent += found["spent"]
            calls += found["calls"]
        return spent, calls


@pytest.mark.parametrize(("limit_class", "limit", "window_s"), [("auth", 5, 2), ("api", 100, 2), ("proxy", 1000, 2)])
def test_eight_processes_admit_the_limit_and_not_one_more(
    env: dict[str, str], limit_class: str, limit: int, window_s: int
) -> None:
    with Hammers(env, limit_class, limit, window_s, seconds=7) as hammers:
        hammers.start()
        spent, calls = hammers.results()
    assert most_in_a_window(spent, window_s) == limit
    if limit_class == "proxy":
        assert calls < len(spent), (
            "leases make for fewer calls than admissions even where all are denied most of the time"
        )


def test_stopped_processes_do_not_spend_what_has_lapsed(env: dict[str, str]) -> None:
    limit, window_s = 1000, 2
    with Hammers(env, "proxy", limit, window_s, seconds=7) as hammers:
        hammers.start()
        end = time.monotonic() + 6
        number = 0
        while time.monotonic() < end:
            process = hammers.processes[number % PROCESSES]
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.05 + 0.3 * (number % 3))
            process.send_signal(signal.SIGCONT)
            number += 1
        spent, _ = hammers.results()
    assert most_in_a_window(spent, window_s) <= limit
