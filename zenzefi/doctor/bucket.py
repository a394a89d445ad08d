"""What production demands of the bucket: that what is stored cannot be lost by one mistake."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from zenzefi.doctor.findings import Finding, fail, ok, warn
from zenzefi.doctor.services import STORAGE_TIMEOUT_S
from zenzefi.infra.storage import Storage, StorageError, error_code
from zenzefi.settings import Settings

if TYPE_CHECKING:
    from aiobotocore.client import AioBaseClient


async def check_bucket(settings: Settings) -> list[Finding]:
    """Look at versions and locks; nothing of a bucket that cannot be reached, which is told elsewhere."""
    storage = Storage(settings.s3)
    if not storage.is_configured:
        return []
    with suppress(StorageError, TimeoutError):
        async with asyncio.timeout(STORAGE_TIMEOUT_S), storage.open_client() as client:
            return [
                _judge(settings, versioned=await _is_versioned(client, storage), locked=await _locks(client, storage))
            ]
    return []


async def _is_versioned(client: "AioBaseClient", storage: Storage) -> bool | None:
    answer = await _ask(client.get_bucket_versioning(Bucket=storage.bucket))
    return None if answer is None else answer.get("Status") == "Enabled"


async def _locks(client: "AioBaseClient", storage: Storage) -> bool:
    answer = await _ask(client.get_object_lock_configuration(Bucket=storage.bucket))
    return bool(answer) and answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled"


async def _ask(question: Any) -> Any:
    """The answer, or None from a store that does not know the question, or a key that may not ask it."""
    from botocore.exceptions import ClientError  # late: see zenzefi.infra.storage

    try:
        return await question
    except ClientError as error:
        if error_code(error) == "NoSuchBucket":
            raise
        return None


def _judge(settings: Settings, *, versioned: bool | None, locked: bool) -> Finding:
    days = settings.backup.object_lock_days
    if days and not locked:
        detail = f"BACKUP_OBJECT_LOCK_DAYS={days}, and the bucket has no Object Lock: every backup will fail"
        return fail("s3 safety", detail, "Make a bucket with Object Lock (only a new one can have it), or set it to 0.")
    if days:
        return ok("s3 safety", f"backups are locked for {days} days ({settings.backup.object_lock_mode})")
    if versioned:
        return ok("s3 safety", "versions are kept, nothing is locked")
    detail = "neither versions nor locks: whoever takes this machine's keys can delete all backups"
    fix = "Turn versioning or Object Lock on (BACKUP_OBJECT_LOCK_DAYS), or name a second store (BACKUP_COPY_S3_BUCKET)."
    return (
        warn("s3 safety", detail, fix) if settings.backup.copy is None else ok("s3 safety", "a second store has copies")
    )
