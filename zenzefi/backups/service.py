"""Making a backup: one snapshot, dumped, encrypted and stored as it comes, and proven by what the snapshot holds."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from zenzefi import __version__
from zenzefi.backups.connections import DirectConnection, open_direct
from zenzefi.backups.copies import copy_backup
from zenzefi.backups.dump import dump, find_pg_dump
from zenzefi.backups.encryption import encrypt, key_id
from zenzefi.backups.errors import BackupDamaged, NoRepository
from zenzefi.backups.findings import note
from zenzefi.backups.locks import Run, exclusive_run
from zenzefi.backups.models import Manifest, Progress, Tell, make_id
from zenzefi.backups.proof import take_proof
from zenzefi.backups.properties import find_properties
from zenzefi.backups.repository import Repository, open_repository
from zenzefi.backups.upload import MultipartUpload, Uploaded, first_part_size, upload
from zenzefi.context import Context
from zenzefi.settings import Settings

A = TypeVar("A")
B = TypeVar("B")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A state of the database that other connections may look at while this transaction lasts."""

    name: str
    connection: DirectConnection
    server_version: str
    database_size: int


async def back_up(ctx: Context, *, progress: Tell | None = None) -> Manifest:
    """Make a backup and its copy, if there is a second destination. Holds the backups' lock; cancelling cleans up.

    Raises:
        NoRepository: there is no bucket, or nobody to encrypt for.
        Locked: another run has the lock.
        DumpFailed, UploadFailed, StorageError, DatabaseUnavailable: nothing was published, what was there stays.
        Superseded: a later run began meanwhile; nothing was published.
        CopyFailed: the backup is there, its copy is not.
    """
    settings = ctx.settings.backup
    tell = progress or _tell_nobody
    require_setup(ctx.settings)
    async with open_repository(ctx.storage, settings) as repository, exclusive_run(ctx) as run:
        manifest = await _make(ctx, repository, run, tell=tell)
        async with run.publishing():
            await repository.publish(manifest)
        log.info(
            "backup_made",
            backup=manifest.id,
            stored_bytes=manifest.stored_size,
            rows=manifest.proof.rows,
            duration_s=round(manifest.duration_s, 1),
        )
        await note(ctx, repository)
        if settings.copy is not None:
            await copy_backup(repository, manifest, store=settings.copy, settings=settings, tell=tell)
    return manifest


def require_setup(settings: Settings) -> None:
    """Look whether the settings name what a backup needs; nothing is connected.

    Raises:
        NoRepository: there is no bucket, or nobody to encrypt for.
    """
    if not settings.backup.recipients:
        raise NoRepository(
            "BACKUP_RECIPIENTS is not set: there is nobody to encrypt for. Make a key: zenzefi backup key"
        )
    if not settings.s3.bucket:
        raise NoRepository("S3_BUCKET is not set: there is nowhere to keep backups.")


async def _make(ctx: Context, repository: Repository, run: Run, *, tell: Tell) -> Manifest:
    """Store the dump of one snapshot, and say all that its manifest will."""
    created_at = ctx.now()
    backup_id = make_id(run.id, created_at=created_at)
    async with _export_snapshot(ctx) as snapshot:
        program, pg_dump_version = await find_pg_dump(ctx.settings, server_version=snapshot.server_version)
        target = MultipartUpload(
            repository.client,
            bucket=repository.bucket,
            key=repository.data_key(backup_id),
            lock=repository.object_lock(created_at),
        )
        estimate = await _estimate(repository) or snapshot.database_size
        properties = await find_properties(snapshot.connection, ctx.settings.postgres_db)
        proof, uploaded = await _both(
            take_proof(snapshot.connection),
            _store(ctx, target, program=program, snapshot=snapshot, tell=partial(_tell_stored, tell, estimate)),
        )
    return Manifest(
        id=backup_id,
        run_id=run.id,
        created_at=created_at,
        finished_at=ctx.now(),
        database=ctx.settings.postgres_db,
        server_version=snapshot.server_version,
        pg_dump_version=pg_dump_version,
        zenzefi_version=__version__,
        key_ids=tuple(key_id(recipient) for recipient in ctx.settings.backup.recipients),
        object_key=repository.data_key(backup_id),
        stored_size=uploaded.size,
        sha256=uploaded.sha256,
        proof=proof,
        properties=properties,
    )


async def _store(
    ctx: Context, target: MultipartUpload, *, program: Path, snapshot: Snapshot, tell: Callable[[int], None]
) -> Uploaded:
    dumped = dump(ctx.settings, program=program, snapshot=snapshot.name)
    async with aclosing(encrypt(dumped, ctx.settings.backup.recipients)) as encrypted:
        return await upload(encrypted, to=target, first_part=first_part_size(snapshot.database_size), tell=tell)


@asynccontextmanager
async def _export_snapshot(ctx: Context) -> AsyncIterator[Snapshot]:
    """Hold one state of the database for as many connections as want to see it (pg_export_snapshot)."""
    async with (
        open_direct(ctx.settings) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        row = await connection.fetchrow(
            "SELECT pg_export_snapshot() AS name, split_part(current_setting('server_version'), ' ', 1) AS version, "
            "pg_database_size(current_database()) AS size"
        )
        assert row is not None
        yield Snapshot(
            name=row["name"], connection=connection, server_version=row["version"], database_size=row["size"]
        )


async def _estimate(repository: Repository) -> int | None:
    try:
        newest = await repository.find_newest()
    except BackupDamaged:
        return None
    return newest.stored_size if newest else None


async def _both(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Await both; when one fails, the other is cancelled and the error is that of the first to fail."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return tasks[0].result(), tasks[1].result()


def _tell_stored(tell: Tell, estimate: int, size: int) -> None:
    tell(Progress(phase="backing up", done_bytes=size, estimated_bytes=max(size, estimate)))


def _tell_nobody(progress: Progress) -> None:
    """Take progress that nobody asked for."""
