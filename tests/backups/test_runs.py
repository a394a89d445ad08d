"""One run at a time, and what becomes of those that are killed, stopped or told to end."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import psutil
import pytest

from tests.backups.ballast import add_ballast
from tests.backups.locking import HOLDERS, until_unlocked
from tests.backups.requests import part
from tests.support.s3_faults import Fault, FaultyS3
from tests.support.servers import Cluster
from tests.support.serving import ROOT
from zenzefi.backups import upload
from zenzefi.backups.errors import Locked
from zenzefi.backups.locks import exclusive_run
from zenzefi.backups.repository import Repository
from zenzefi.backups.service import back_up
from zenzefi.context import Context

PART = 5 * upload.MIB  # the least that S3 takes


@asynccontextmanager
async def _maker(env: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that makes a backup; killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.backups.maker",
        str(PART),
        env={**os.environ, **env},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def _outcome(output: bytes) -> str:
    """What the maker's last line says, below those of its log."""
    return output.decode().splitlines()[-1].split()[0]


async def test_after_a_kill_the_next_run_works_and_the_left_upload_is_swept(
    backup_env: dict[str, str], backup_ctx: Context, repository: Repository, faults: FaultyS3, cluster: Cluster
) -> None:
    await add_ballast(backup_ctx.settings, megabytes=17)
    fourth = faults.inject(Fault.HOLD, part(4))
    async with _maker({**backup_env, "S3_ENDPOINT_URL": faults.url}) as process:
        await fourth.met.wait()
        process.kill()
        await process.wait()
    faults.clear()

    assert await repository.ids() == []
    await until_unlocked(cluster, backup_env["POSTGRES_DB"])
    manifest = await back_up(backup_ctx)

    assert await repository.ids() == [manifest.id]
    assert await repository.sweep_uploads() == 0, "it may still be somebody's"
    assert await repository.sweep_uploads(older_than=timedelta(0)) == 1
    assert await repository.sweep_uploads(older_than=timedelta(0)) == 0
    assert await repository.ids() == [manifest.id]


async def test_a_stopped_run_that_lost_its_lock_publishes_nothing(
    backup_env: dict[str, str], backup_ctx: Context, repository: Repository, faults: FaultyS3, cluster: Cluster
) -> None:
    first = faults.inject(Fault.HOLD, part(1))
    async with _maker({**backup_env, "S3_ENDPOINT_URL": faults.url}) as process:
        await first.met.wait()
        process.send_signal(signal.SIGSTOP)
        superuser = await cluster.connect()
        await superuser.execute(
            f"SELECT pg_terminate_backend(pid) FROM ({HOLDERS}) AS holders", backup_env["POSTGRES_DB"]
        )
        await superuser.close()
        await until_unlocked(cluster, backup_env["POSTGRES_DB"])

        manifest = await back_up(backup_ctx)
        process.send_signal(signal.SIGCONT)
        first.released.set()
        output, _ = await process.communicate()

    assert _outcome(output) == "Superseded"
    assert await repository.ids() == [manifest.id]
    orphans = [orphan async for orphan in repository.orphans(older_than=timedelta(0))]
    assert len(orphans) == 1
    assert orphans[0].backup_id != manifest.id


async def test_of_two_runs_one_is_told_who_runs(
    backup_env: dict[str, str], backup_ctx: Context, repository: Repository, faults: FaultyS3
) -> None:
    first = faults.inject(Fault.HOLD, part(1))
    async with _maker({**backup_env, "S3_ENDPOINT_URL": faults.url}) as process:
        await first.met.wait()
        with pytest.raises(Locked, match=r"pg_terminate_backend\(\d+\)"):
            await back_up(backup_ctx)
        first.released.set()
        output, _ = await process.communicate()

    assert await repository.ids() == [_outcome(output)]


async def test_a_cancelled_run_leaves_neither_processes_nor_parts_nor_the_lock(
    faulty_ctx: Context, faults: FaultyS3, repository: Repository
) -> None:
    await add_ballast(faulty_ctx.settings, megabytes=17)
    second = faults.inject(Fault.HOLD, part(2))
    running = asyncio.create_task(back_up(faulty_ctx))
    await second.met.wait()
    dumping = [child for child in psutil.Process().children() if child.name() == "pg_dump"]
    assert len(dumping) == 1, "more than a pipe's worth of the dump is still to come"

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert not dumping[0].is_running()
    assert await repository.sweep_uploads(older_than=timedelta(0)) == 0
    assert await repository.ids() == []
    async with exclusive_run(faulty_ctx):
        pass
