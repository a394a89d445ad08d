"""The size of a database has no part in the memory that its backup takes."""

import asyncio
import os
import sys
from pathlib import Path

from tests.support.serving import ROOT
from zenzefi.backups import upload
from zenzefi.backups.repository import Repository

MOST_KB = 64 * 1024
DUMP_BYTES = 150_000_000


async def test_a_backup_that_is_larger_than_the_limit_stays_below_it(
    backup_env: dict[str, str], repository: Repository, tmp_path: Path
) -> None:
    """With parts as they are for databases of up to 40 GB."""
    program, real = tmp_path / "pg_dump", Path(backup_env["POSTGRES_BIN"]) / "pg_dump"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {real} "$1"\nhead -c {DUMP_BYTES} /dev/urandom')
    program.chmod(0o755)

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.backups.maker",
        str(upload.MIN_PART),
        env={**os.environ, **backup_env, "POSTGRES_BIN": str(tmp_path)},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()

    backup_id, risen_kb = output.decode().splitlines()[-1].split()
    assert (await repository.get(backup_id)).stored_size > DUMP_BYTES
    assert int(risen_kb) < MOST_KB
