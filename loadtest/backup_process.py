"""`python -m loadtest.backup_process`: makes one backup, and prints what it took as JSON."""

import asyncio
import json
import re
import time
from pathlib import Path

import uvloop

from zenzefi.backups.service import back_up
from zenzefi.context import open_context
from zenzefi.infra.logging import configure_logging
from zenzefi.settings import Settings


async def make() -> None:
    """Make it as the worker does: the peak is that of this process, from where its context is open."""
    settings = Settings.from_env()
    configure_logging("error")
    async with open_context(settings) as ctx:
        before, started = _peak_kb(), time.perf_counter()
        manifest = await back_up(ctx)
        took_s = time.perf_counter() - started
    document = {"took_s": took_s, "risen_kb": _peak_kb() - before, "stored_bytes": manifest.stored_size}
    print(json.dumps(document))  # noqa: T201


def _peak_kb() -> int:
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    assert match is not None
    return int(match.group(1))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(make())
