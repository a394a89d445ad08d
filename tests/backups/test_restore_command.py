"""The command that restores: nothing is swapped without --yes, and what it says to undo it with undoes it."""

import asyncio
import os
import subprocess
import sys

from tests.support.servers import Cluster
from tests.support.serving import ROOT
from zenzefi.backups.connections import open_direct
from zenzefi.backups.leftovers import list_leftovers
from zenzefi.backups.service import back_up
from zenzefi.context import Context
from zenzefi.settings import Settings


async def _restore(*arguments: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return await _backup("restore", *arguments, env=env)


async def _backup(*arguments: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "zenzefi", "backup", *arguments],
        env={**os.environ, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


async def _count_facts(settings: Settings) -> int:
    async with open_direct(settings) as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM public.facts")
        return count


async def test_restored_swapped_in_later_and_undone(
    backup_ctx: Context, backup_env: dict[str, str], cluster: Cluster
) -> None:
    made = await back_up(backup_ctx)  # which leaves a fact that is not in the backup

    beside = await _restore(made.id, env=backup_env)
    assert beside.returncode == 0, beside.stderr
    database = beside.stdout.strip()
    without_yes = await _restore("--swap-in", database, env=backup_env)
    assert without_yes.returncode == 2
    assert await _count_facts(backup_ctx.settings) == 1

    swapped = await _restore("--swap-in", database, "--yes", env=backup_env)
    assert (swapped.returncode, swapped.stdout) == (0, f"{backup_ctx.settings.postgres_db}\n"), swapped.stderr
    assert await _count_facts(backup_ctx.settings) == 0

    undo = swapped.stderr.partition("zenzefi backup restore ")[2].split()
    undone = await _restore(*undo, env=backup_env)
    assert undone.returncode == 0, undone.stderr
    assert await _count_facts(backup_ctx.settings) == 1
    listed = await _backup("databases", env=backup_env)
    (kind, left, _size) = listed.stdout.split()
    assert (kind, left) == ("replaced", undone.stderr.split()[-2])
    refused, dropped = await asyncio.gather(
        _backup("databases", "--drop", left, env=backup_env),
        _backup("databases", "--drop", left, "--yes", env=backup_env),
    )
    assert (refused.returncode, dropped.returncode, dropped.stderr) == (2, 0, "")
    assert await list_leftovers(backup_ctx.settings) == []
