"""What the repository holds, as the fact that metrics show, whichever process ran last."""

import structlog

from zenzefi.backups.errors import BackupDamaged
from zenzefi.backups.models import VerificationState
from zenzefi.backups.repository import Repository
from zenzefi.context import Context
from zenzefi.errors import JsonObject
from zenzefi.infra import facts

FACT = "backups"

log = structlog.get_logger(__name__)


async def note(ctx: Context, repository: Repository) -> JsonObject:
    """Read all manifests and keep what they say: instants are seconds since 1970, sizes bytes.

    A manifest that cannot be read counts as a failed verification.
    """
    newest, newest_verified, count, failed = None, None, 0, 0
    for backup_id in await repository.ids():
        count += 1
        try:
            manifest = await repository.get(backup_id)
        except BackupDamaged as error:
            log.error("backup_manifest_damaged", backup=backup_id, error=str(error))  # noqa: TRY400
            failed += 1
            continue
        newest = newest or manifest
        if manifest.is_verified:
            newest_verified = newest_verified or manifest
        failed += manifest.verification.state is VerificationState.FAILED
    document: JsonObject = {
        "last_success": newest.created_at.timestamp() if newest else None,
        "last_verified": newest_verified.created_at.timestamp() if newest_verified else None,
        "size_bytes": newest.stored_size if newest else 0,
        "duration_s": newest.duration_s if newest else 0.0,
        "count": count,
        "failed_verifications": failed,
    }
    async with ctx.transaction() as conn:
        await facts.put(conn, name=FACT, document=document, at=ctx.now())
    return document
