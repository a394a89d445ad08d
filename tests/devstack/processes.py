"""Looking at processes from outside: who descends from whom, and who is gone."""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
GONE_WITHIN_S = 30.0  # a moment; nothing that stays is gone after half a minute either
_STALL_S = 0.2


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Return when the condition holds; fail when it does not in time. While the machine stands still no time passes."""
    waited_s, seen = 0.0, time.monotonic()
    while not condition():
        before, seen = seen, time.monotonic()
        waited_s += min(seen - before, _STALL_S)
        if waited_s > timeout_s:
            raise AssertionError(f"within {timeout_s:g} s this did not happen: {what}")
        time.sleep(0.02)


def descendants(pid: int) -> list[psutil.Process]:
    """All processes below this one, grandchildren too."""
    return psutil.Process(pid).children(recursive=True)


def still_there(processes: Iterable[psutil.Process]) -> list[str]:
    """Those that have not ended; one that ended and waits for its new parent to notice is no more."""
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
        except psutil.NoSuchProcess:
            continue
    return found


def expect_nothing_left(below: Collection[psutil.Process]) -> None:
    """Fail unless all of them are gone soon: what was killed still needs the processor once, to end."""
    wait_until(lambda: not still_there(below), timeout_s=GONE_WITHIN_S, what="every process below it ends")


def kill_and_expect_nothing_left(pid: int, *, wait: Callable[[], object]) -> None:
    """kill -9 a process, and fail unless everything below it is gone soon after."""
    below = descendants(pid)
    assert below, "there is nothing below it: this would prove nothing"
    os.kill(pid, signal.SIGKILL)
    wait()
    expect_nothing_left(below)
