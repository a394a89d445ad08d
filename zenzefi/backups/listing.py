"""The list of backups, as the command line and the API show it. Needs the object store, and no database."""

from zenzefi.backups.errors import BackupDamaged, BackupNotFound
from zenzefi.backups.repository import open_repository
from zenzefi.backups.schemas import backup_json, unreadable_json
from zenzefi.errors import JsonObject
from zenzefi.infra.storage import Storage
from zenzefi.settings import Settings


async def list_backups(settings: Settings) -> list[JsonObject]:
    """Describe every backup of the first destination, the newest first; one that cannot be read is in the list, too.

    Raises:
        NoRepository: there is no bucket.
        StorageError: the store refuses or cannot be reached.
    """
    documents: list[JsonObject] = []
    async with open_repository(Storage(settings.s3), settings.backup) as repository:
        for backup_id in await repository.ids():
            try:
                documents.append(backup_json(await repository.get(backup_id)))
            except BackupNotFound:
                continue  # pruned meanwhile
            except BackupDamaged as error:
                documents.append(unreadable_json(backup_id, str(error)))
    return documents
