"""The size of a database has no part in the memory that its backup takes."""

import asyncio
import os
import sys

from tests.backups.ballast import add_ballast
from tests.support.serving import ROOT
from zenzefi.backups import upload
from zenzefi.backups.repository import Repository
from zenzefi.context import Context

MOST_KB = 64 * 1024


async def test_a_backup_that_is_larger_than_the_limit_stays_below_it(
    backup_env: dict[str, str], backup_ctx: Context, repository: Repository
) -> None:
    """With parts of the size that is used for databases of up to 40 GB."""
    await add_ballast(backup_ctx.settings, megabytes=96)

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.backups.maker",
        str(upload.MIN_PART),
        env={**os.environ, **backup_env},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()

    backup_id, risen_kb = output.decode().splitlines()[-1].split()
    assert (await repository.get(backup_id)).stored_size > MOST_KB * 1024
    assert int(risen_kb) < MOST_KB
