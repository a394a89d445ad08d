"""Verification: a backup counts once it was restored and found equal to the snapshot that it was made of."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import asyncpg
import structlog

from zenzefi.backups.connections import DirectConnection, open_direct
from zenzefi.backups.encryption import decrypt, key_id, recipient_of
from zenzefi.backups.errors import BackupDamaged, BackupNotFound, RestoreFailed, VerificationFailed, WrongKey
from zenzefi.backups.filling import fill
from zenzefi.backups.findings import note
from zenzefi.backups.locks import exclusive_run
from zenzefi.backups.models import Manifest, Progress, Tell, VerificationState
from zenzefi.backups.proof import differences, take_proof
from zenzefi.backups.repository import Repository, open_repository
from zenzefi.backups.scratch import Purpose, scratch_database
from zenzefi.context import Context
from zenzefi.infra.db import Connection
from zenzefi.settings import Settings
from zenzefi.wallet import service as wallet

# A full disk, too: sorting needs room. What a file system says that PostgreSQL has no code for is an internal error.
_SERVER_TROUBLE = (asyncpg.InsufficientResourcesError, asyncpg.PostgresSystemError, asyncpg.InternalServerError)
_SHOWN = 10  # of the differences in a reason; the first ones tell where to look

log = structlog.get_logger(__name__)


async def verify(ctx: Context, *, backup_id: str | None = None, progress: Tell | None = None) -> Manifest:
    """Restore a backup, by default the newest that was not tried yet, compare it, and mark its manifest.

    Holds the backups' lock; cancelling cleans up.

    Raises:
        VerificationFailed: the backup is not what was backed up, and is marked as failed.
        BackupNotFound: there is none of this name, or none that was not tried yet.
        WrongKey, NoRepository, Locked, RestoreFailed, StorageError, DatabaseUnavailable, Superseded: it could not be
            tried, and nothing is marked.
    """
    settings = ctx.settings.backup
    async with open_repository(ctx.storage, settings) as repository, exclusive_run(ctx) as run:
        manifest = await _choose(repository, backup_id)
        require_key(ctx.settings, manifest)
        reason = await _try(ctx, repository, manifest, tell=progress or tell_nobody)
        async with run.publishing():
            if reason is None:
                marked = await repository.mark_verified(manifest.id, at=ctx.now())
            else:
                marked = await repository.mark_failed(manifest.id, at=ctx.now(), reason=reason)
        await note(ctx, repository)
    if reason is not None:
        log.error("backup_verification_failed", backup=manifest.id, reason=reason)
        raise VerificationFailed(f"The backup {manifest.id} is not what was backed up: {reason}")
    log.info("backup_verified", backup=manifest.id, rows=manifest.proof.rows)
    return marked


def require_key(settings: Settings, manifest: Manifest) -> None:
    """Look whether BACKUP_IDENTITY opens a backup, before anything is downloaded.

    Raises:
        WrongKey: it does not, or it is not set.
    """
    identity = settings.backup.identity
    if not identity:
        raise WrongKey("BACKUP_IDENTITY is not set: backups can be made without it, and not be opened.")
    own = key_id(recipient_of(identity))
    if own not in manifest.key_ids:
        raise WrongKey(
            f"The backup {manifest.id} was encrypted for the keys {', '.join(manifest.key_ids)}, and BACKUP_IDENTITY "
            f"is {own}."
        )


async def restore_and_compare(
    settings: Settings, repository: Repository, manifest: Manifest, *, database: str, tell: Tell
) -> None:
    """Fill an empty database with a backup, and compare all of it with what the manifest says.

    Raises:
        BackupDamaged: the stored object, or what came of it, is not what was backed up; the message says where.
        RestoreFailed, StorageError, DatabaseUnavailable: it could not be tried.
    """

    encrypted = _read(repository, manifest, tell)
    complaints = await fill(settings, database, decrypt(encrypted, settings.backup.identity))
    tell(Progress(phase="comparing", done_bytes=0))
    try:
        async with open_direct(settings, database=database) as connection:
            found = differences(manifest.proof, await take_proof(connection)) or await _find_faults(connection)
    except _SERVER_TROUBLE as error:
        raise RestoreFailed(f"The server cannot compare what was restored: {error}.") from error
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        said = f" (pg_restore: {complaints})" if complaints else ""
        raise BackupDamaged("; ".join(found[:_SHOWN]) + more + said)


async def _find_faults(connection: DirectConnection) -> list[str]:
    """Where the restored ledger breaks its rules: the snapshot itself may have been of a broken one."""
    await connection.execute("SET search_path = public")  # the ledger's statements name no schema
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        report = await wallet.verify_on(cast(Connection, connection))
    return [f"the ledger breaks {fault.rule.value}: {fault.subject}: {fault.detail}" for fault in report.faults]


async def _read(repository: Repository, manifest: Manifest, tell: Tell) -> AsyncGenerator[bytes, None]:
    received = 0
    async with aclosing(repository.read_data(manifest)) as pieces:
        async for piece in pieces:
            received += len(piece)
            tell(Progress(phase="restoring", done_bytes=received, estimated_bytes=manifest.stored_size))
            yield piece


async def find_untried(ctx: Context) -> str | None:
    """The newest backup that was not tried yet, by name."""
    async with open_repository(ctx.storage, ctx.settings.backup) as repository:
        manifest = await _find_untried(repository)
    return manifest.id if manifest else None


async def _choose(repository: Repository, backup_id: str | None) -> Manifest:
    manifest = await (_find_untried(repository) if backup_id is None else repository.get(backup_id))
    if manifest is None:
        raise BackupNotFound("There is no backup that was not verified yet.")
    return manifest


async def _find_untried(repository: Repository) -> Manifest | None:
    for candidate in await repository.ids():
        try:
            manifest = await repository.get(candidate)
        except (BackupDamaged, BackupNotFound):
            continue  # a damaged manifest counts as a failed backup by itself
        if manifest.verification.state is VerificationState.UNVERIFIED:
            return manifest
    return None


async def _try(ctx: Context, repository: Repository, manifest: Manifest, *, tell: Tell) -> str | None:
    """What is wrong with the backup; None when it is proven."""
    async with scratch_database(ctx.settings, Purpose.VERIFYING, properties=manifest.properties) as database:
        try:
            await restore_and_compare(ctx.settings, repository, manifest, database=database, tell=tell)
        except BackupDamaged as error:
            return str(error)
    return None


def tell_nobody(progress: Progress) -> None:
    """Take progress that nobody asked for."""
