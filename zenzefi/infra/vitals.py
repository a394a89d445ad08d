"""What a process tells of itself: its CPU time, memory and file descriptors, and how late its event loop is."""

import asyncio
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

import zenzefi
from zenzefi.infra import instruments

SAMPLE_S: Final = 1.0
# A loop that blocks for 20 ms once a second is seen by one look in five; ten looks cost 50 µs a second.
LAG_LOOK_S: Final = 0.1
_PROC: Final = Path("/proc/self")
_FDS: Final = _PROC / "fd"
_PAGE_BYTES: Final = resource.getpagesize()

log = structlog.get_logger(__name__)


async def sample_for_ever(samplers: Sequence[Callable[[], None]]) -> None:
    """Have every gauge set each second: the process's own, and those that the samplers know of."""
    instruments.BUILD_INFO.labels(zenzefi.__version__, platform.python_version()).set(1)
    instruments.PROCESS_START.labels().set(_started_at())
    instruments.PROCESS_MAX_FDS.labels().set(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    while True:
        _sample_process()
        for sampler in list(samplers):
            try:
                sampler()
            except Exception:
                log.exception("gauge_not_sampled")  # of one slice; the others' are wanted all the same
        instruments.SAMPLED_AT.labels().set(time.time())
        await asyncio.sleep(SAMPLE_S)


async def watch_loop_lag() -> None:
    """Measure how much later than asked for the event loop gets round to things."""
    loop, lag = asyncio.get_running_loop(), instruments.LOOP_LAG.labels()
    while True:
        due = loop.time() + LAG_LOOK_S
        await asyncio.sleep(LAG_LOOK_S)
        lag.observe(max(0.0, loop.time() - due))


class _CountedCpu:
    """How much of this process's CPU time its counter has: once, however many contexts the process opens."""

    seconds = 0.0


def _sample_process() -> None:
    cpu_s = time.process_time()
    instruments.PROCESS_CPU.labels().inc(cpu_s - _CountedCpu.seconds)
    _CountedCpu.seconds = cpu_s
    resident_pages = int((_PROC / "statm").read_text().split()[1])
    instruments.PROCESS_MEMORY.labels().set(resident_pages * _PAGE_BYTES)
    # Since Linux 6.2 the folder's size is their number; before, they are counted.
    descriptors = _FDS.stat().st_size or sum(1 for _ in _FDS.iterdir())
    instruments.PROCESS_FDS.labels().set(descriptors)


def _started_at() -> float:
    ticks = int((_PROC / "stat").read_text().rpartition(")")[2].split()[19])
    since_boot_s = ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot_s
