"""The second destination: each backup once more, elsewhere, read back before it counts."""

from contextlib import aclosing

from zenzefi.backups.errors import BackupError, CopyFailed
from zenzefi.backups.models import Manifest, Progress, Tell
from zenzefi.backups.repository import Repository, open_repository
from zenzefi.backups.upload import MultipartUpload, first_part_size, upload
from zenzefi.infra.storage import Storage, StorageError
from zenzefi.upkeep_settings import BackupSettings, ObjectStore


async def copy_backup(
    source: Repository, manifest: Manifest, *, store: ObjectStore, settings: BackupSettings, tell: Tell
) -> None:
    """Copy a backup's dump and manifest; nothing of it is kept in between.

    Raises:
        CopyFailed: the copy is not whole, and no manifest of it was written.
    """
    try:
        async with open_repository(Storage(store), settings) as target:
            await _copy(source, target, manifest, tell)
    except (BackupError, StorageError) as error:
        raise CopyFailed(
            f"The backup {manifest.id} is stored at {source.address}, and its copy failed: {error}"
        ) from error


async def _copy(source: Repository, target: Repository, manifest: Manifest, tell: Tell) -> None:
    def tell_copied(size: int) -> None:
        tell(Progress(phase="copying", done_bytes=size, estimated_bytes=manifest.stored_size))

    async with aclosing(source.read_data(manifest)) as pieces:  # it ends in an error unless its SHA-256 is right
        await upload(
            pieces,
            to=MultipartUpload(
                target.client,
                bucket=target.bucket,
                key=manifest.object_key,
                lock=target.object_lock(manifest.created_at),
            ),
            first_part=first_part_size(manifest.stored_size),
            tell=tell_copied,
        )
    checked = 0
    async with aclosing(target.read_data(manifest)) as pieces:
        async for piece in pieces:
            checked += len(piece)
            tell(Progress(phase="checking the copy", done_bytes=checked, estimated_bytes=manifest.stored_size))
    await target.publish(manifest)
