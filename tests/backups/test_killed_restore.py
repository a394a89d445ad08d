"""A restore that is killed anywhere leaves a whole live database, and what it left can be named, used and dropped."""

import asyncio
import os
import signal
import sys

import asyncpg
import pytest

from tests.backups.locking import until_unlocked
from tests.support.servers import Cluster
from tests.support.serving import ROOT
from zenzefi.backups.connections import open_direct
from zenzefi.backups.errors import BackupNotFound
from zenzefi.backups.leftovers import LeftoverKind, drop_leftover, list_leftovers
from zenzefi.backups.restoring import swap_in
from zenzefi.backups.service import back_up
from zenzefi.context import Context
from zenzefi.settings import Settings

RESTORED, REPLACED, UNFINISHED = LeftoverKind.RESTORED, LeftoverKind.REPLACED, LeftoverKind.UNFINISHED
_SESSIONS = "SELECT FROM pg_stat_activity WHERE datname ^@ $1 AND application_name = 'zenzefi backup'"


async def _kill(env: dict[str, str], backup_id: str, point: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.backups.restorer", backup_id, point), env={**os.environ, **env}, cwd=ROOT
    )
    try:
        assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _kinds(settings: Settings) -> list[LeftoverKind]:
    return [leftover.kind for leftover in await list_leftovers(settings)]


async def _is_what_was_backed_up(settings: Settings) -> bool:
    """The live database has a fact that was noted after the snapshot."""
    async with open_direct(settings) as connection:
        return not await connection.fetchval("SELECT EXISTS (SELECT FROM public.facts)")


async def test_killed_anywhere_the_live_database_is_whole_and_the_next_run_finds_its_way(
    backup_ctx: Context, backup_env: dict[str, str], cluster: Cluster
) -> None:
    settings, live = backup_ctx.settings, backup_ctx.settings.postgres_db
    made = await back_up(backup_ctx)

    # Each of them is the next run of the one before.
    for point, left, swapped in (
        ("restored", [UNFINISHED], False),
        ("before", [RESTORED], False),
        ("committed", [REPLACED, RESTORED], True),
    ):
        await _kill(backup_env, made.id, point)
        await until_unlocked(cluster, live)
        await _until_gone(cluster, live)
        assert (point, await _kinds(settings)) == (point, left)
        assert await _is_what_was_backed_up(settings) is swapped

    replaced, _ = [leftover.name for leftover in await list_leftovers(settings)]
    assert (await swap_in(settings, name=replaced)).is_live
    assert not await _is_what_was_backed_up(settings)
    for leftover in await list_leftovers(settings):
        await drop_leftover(settings, name=leftover.name)
    assert await list_leftovers(settings) == []


async def test_only_what_a_restore_left_is_dropped(backup_settings: Settings, cluster: Cluster) -> None:
    left = f"{backup_settings.postgres_db}_before_20260101t000000z"
    await cluster.clone(left)
    for name in (backup_settings.postgres_db, "postgres", f"{left}x"):
        with pytest.raises(BackupNotFound):
            await drop_leftover(backup_settings, name=name)
    assert (await drop_leftover(backup_settings, name=left)).kind is REPLACED
    assert await _kinds(backup_settings) == []


async def _until_gone(cluster: Cluster, database: str) -> None:
    """Return once PostgreSQL has noticed that the process is gone, and has undone what that did not commit."""
    connection: asyncpg.Connection[asyncpg.Record] = await cluster.connect()
    try:
        async with asyncio.timeout(30):
            while await connection.fetch(_SESSIONS, database):  # noqa: ASYNC110  PostgreSQL tells nobody
                await asyncio.sleep(0.02)
    finally:
        await connection.close()
