"""`python -m tests.backups.maker PART_BYTES`: makes a backup in a process of its own, which may be killed.

It prints its name, or the error's, and by how many kilobytes its memory's peak rose.
"""

import asyncio
import re
import sys
from pathlib import Path

from zenzefi.backups import upload
from zenzefi.backups.errors import BackupError
from zenzefi.backups.service import back_up
from zenzefi.context import open_context
from zenzefi.settings import Settings


def peak_kb() -> int:
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match.group(1))


async def make() -> None:
    async with open_context(Settings.from_env()) as ctx:
        before = peak_kb()
        try:
            outcome = (await back_up(ctx)).id
        except BackupError as error:
            outcome = type(error).__name__
        print(outcome, peak_kb() - before)


if __name__ == "__main__":
    upload.MIN_PART = int(sys.argv[1])
    asyncio.run(make())
