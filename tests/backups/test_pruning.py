"""Pruning on a real store: what goes, what stays, and what a killed or refused run leaves for the next one."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from tests.support.s3_faults import Fault, FaultyS3
from tests.support.serving import ROOT
from workers.jobs.backups import prune_backups
from zenzefi.backups.errors import Locked
from zenzefi.backups.findings import FACT
from zenzefi.backups.locks import exclusive_run
from zenzefi.backups.models import Manifest, SnapshotProof, VerificationState, make_id
from zenzefi.backups.pruning import prune
from zenzefi.backups.repository import Repository, open_repository
from zenzefi.context import Context, open_context
from zenzefi.infra import facts
from zenzefi.infra.storage import Storage
from zenzefi.settings import Settings

AT_ONCE = timedelta(0)


async def _store(repository: Repository, ages: Sequence[int], *, now: datetime, verified: bool = True) -> list[str]:
    """Store a backup for each age in days, each with an object of its own; their names in the same order."""
    return list(await asyncio.gather(*(_store_one(repository, now - timedelta(days=age), verified) for age in ages)))


async def _store_one(repository: Repository, created_at: datetime, verified: bool) -> str:
    run_id = uuid4()
    backup_id = make_id(run_id, created_at=created_at)
    key = repository.data_key(backup_id)
    manifest = Manifest(
        id=backup_id,
        run_id=run_id,
        created_at=created_at,
        finished_at=created_at,
        database="zenzefi",
        server_version="18.6",
        pg_dump_version="18.6",
        zenzefi_version="0.1.0",
        key_ids=("0123456789abcdef",),
        object_key=key,
        stored_size=4,
        sha256="00" * 32,
        proof=SnapshotProof(migration_head=None, tables={}, sequences={}, schema={}),
    )
    await repository.client.put_object(Bucket=repository.bucket, Key=key, Body=b"dump")
    await repository.publish(manifest.verified(at=created_at) if verified else manifest)
    return backup_id


async def _data(repository: Repository) -> set[str]:
    """The names of all dumps, whether or not a manifest names them."""
    answer = await repository.client.list_objects_v2(Bucket=repository.bucket, Prefix=repository.data_key("")[:-9])
    return {entry["Key"].rpartition("/")[2].removesuffix(".dump.age") for entry in answer.get("Contents", [])}


def _deletion_of_data(request: web.Request) -> bool:
    return request.method == "DELETE" and "/data/" in request.path


async def test_of_forty_old_ones_those_go_that_the_rule_lets_go(backup_ctx: Context, repository: Repository) -> None:
    now = backup_ctx.now()
    old = await _store(repository, range(31, 71), now=now)
    young = await _store(repository, [1, 2, 3], now=now)
    unverified = await _store(repository, [0], now=now, verified=False)

    rehearsed = await prune(backup_ctx, dry_run=True)
    assert len(await repository.ids()) == 44
    report = await prune(backup_ctx)

    stay = {*unverified, *young, *old[:4]}  # 7 verified, though only 3 are young enough
    assert set(await repository.ids()) == await _data(repository) == stay
    (pruned,) = report.destinations
    assert pruned.deleted == rehearsed.destinations[0].deleted == old[:3:-1]
    assert set(pruned.kept) == stay
    assert (report.problems, pruned.orphans, pruned.uploads) == ([], [], 0)
    async with backup_ctx.connection() as conn:
        assert (await facts.read_all(conn))[FACT][1]["count"] == 8
    assert (await prune(backup_ctx)).destinations[0].deleted == []


async def test_what_a_kill_leaves_without_a_manifest_is_swept_by_the_next_run(
    backup_env: dict[str, str], backup_ctx: Context, repository: Repository, faults: FaultyS3
) -> None:
    backups = await _store(repository, range(40, 48), now=backup_ctx.now())
    held = faults.inject(Fault.HOLD, _deletion_of_data)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import asyncio\n"
        "from zenzefi.backups.pruning import prune\n"
        "from zenzefi.context import open_context\n"
        "from zenzefi.settings import Settings\n"
        "async def main():\n"
        "    async with open_context(Settings.from_env()) as ctx:\n"
        "        await prune(ctx)\n"
        "asyncio.run(main())\n",
        env={**os.environ, **backup_env, "S3_ENDPOINT_URL": faults.url},
        cwd=ROOT,
    )
    try:
        async with asyncio.timeout(50):
            await held.met.wait()
        with pytest.raises(Locked):
            await prune(backup_ctx)
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    assert set(await repository.ids()) == set(backups[:7])
    assert await _data(repository) == set(backups), "the dump of the eighth is an orphan now"

    async with asyncio.timeout(30):
        while True:  # until PostgreSQL has noticed that the process is gone
            try:
                report = await prune(backup_ctx)
                break
            except Locked:
                await asyncio.sleep(0.05)
    assert report.destinations[0].orphans == [], "it is young: by its age it may be a dump in the making"
    report = await prune(backup_ctx, stale_after=AT_ONCE)

    assert report.destinations[0].orphans == [backups[7]]
    assert await _data(repository) == set(await repository.ids()) == set(backups[:7])


async def test_a_backup_of_the_future_freezes_everything_but_unfinished_uploads(
    backup_ctx: Context, repository: Repository
) -> None:
    backups = await _store(repository, [*range(40, 50), -60], now=backup_ctx.now())
    orphan = await _store(repository, [80], now=backup_ctx.now())
    await repository.delete_manifest(orphan[0])
    await repository.client.create_multipart_upload(Bucket=repository.bucket, Key=repository.data_key(orphan[0]))

    report = await prune(backup_ctx, stale_after=AT_ONCE)

    assert report.destinations[0].uploads == 1
    assert set(await repository.ids()) == set(backups)
    assert await _data(repository) == {*backups, *orphan}
    (problem,) = report.problems
    assert "nothing was pruned" in problem
    assert backups[-1] in problem
    with capture_logs() as logged:
        summary = await prune_backups(backup_ctx)
    assert "0 deleted, 11 kept, 0 refused, frozen: the backup " in summary
    (logged_problem,) = (line["problem"] for line in logged if line["event"] == "backup_pruning_problem")
    assert "nothing was pruned" in logged_problem


async def test_what_cannot_be_read_or_deleted_stays_and_is_reported(
    faulty_ctx: Context, faults: FaultyS3, repository: Repository
) -> None:
    backups = await _store(repository, range(40, 49), now=faulty_ctx.now())
    (torn,) = await _store(repository, [60], now=faulty_ctx.now())
    await repository.client.put_object(Bucket=repository.bucket, Key=repository.manifest_key(torn), Body=b"{")
    faults.inject(Fault.DENY, lambda request: request.method == "DELETE" and backups[8] in request.path, times=None)

    report = await prune(faulty_ctx)

    (pruned,) = report.destinations
    assert pruned.deleted == [backups[7]]
    assert list(pruned.refused) == [backups[8]]
    assert "AccessDenied" in pruned.refused[backups[8]]
    assert pruned.unreadable == [torn]
    assert len(report.problems) == 2
    assert set(await repository.ids()) == await _data(repository) == {*backups[:7], backups[8], torn}


async def test_copies_are_pruned_by_the_same_rule_and_know_what_was_verified(
    backup_env: dict[str, str], repository: Repository
) -> None:
    bucket = f"copies-{uuid4().hex[:12]}"
    await repository.client.create_bucket(Bucket=bucket)
    second = {f"BACKUP_COPY_{name}": backup_env[name] for name in ("S3_ENDPOINT_URL", "S3_ACCESS_KEY", "S3_SECRET_KEY")}
    settings = Settings.from_env({**backup_env, **second, "BACKUP_COPY_S3_BUCKET": bucket})
    assert settings.backup.copy is not None
    async with (
        open_context(settings) as ctx,
        open_repository(Storage(settings.backup.copy), settings.backup) as copies,
    ):
        backups = await _store(repository, range(40, 50), now=ctx.now(), verified=False)
        for manifest in [manifest async for manifest in repository.manifests()]:
            await copies.client.put_object(Bucket=bucket, Key=manifest.object_key, Body=b"dump")
            await copies.publish(manifest)
            await repository.mark_verified(manifest.id, at=ctx.now())

        report = await prune(ctx)

        assert [pruned.deleted for pruned in report.destinations] == [backups[:6:-1]] * 2
        for each in (repository, copies):
            assert set(await each.ids()) == await _data(each) == set(backups[:7])
        states = {manifest.verification.state async for manifest in copies.manifests()}
        assert states == {VerificationState.VERIFIED}


async def test_nothing_is_pruned_while_another_run_has_the_lock(backup_ctx: Context, repository: Repository) -> None:
    backups = await _store(repository, range(40, 50), now=backup_ctx.now())

    async with exclusive_run(backup_ctx):
        with pytest.raises(Locked):
            await prune(backup_ctx)

    assert set(await repository.ids()) == set(backups)
