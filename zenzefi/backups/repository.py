"""The backups in a bucket: encrypted dumps, and one manifest for each that is whole. Nothing else says what exists.

<prefix>/data/<id>.dump.age        what `age -d` and pg_restore read
<prefix>/manifests/<id>.json       written last, and deleted first
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from zenzefi.backups.download import download
from zenzefi.backups.errors import BackupNotFound, NoRepository, UploadFailed
from zenzefi.backups.models import Manifest, is_id
from zenzefi.backups.objects import content_md5, object_lock, put_if, store_time
from zenzefi.infra.storage import BucketMissing, Storage, error_code
from zenzefi.upkeep_settings import BackupSettings

if TYPE_CHECKING:
    from aiobotocore.client import AioBaseClient

# A dump of terabytes takes a day or two; an upload that nobody finished by then has nobody.
STALE_AFTER = timedelta(days=3)
_DATA_SUFFIX, _MANIFEST_SUFFIX = ".dump.age", ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """A dump in the bucket, whether or not a manifest names it."""

    key: str
    backup_id: str
    size: int
    modified_at: datetime


class Repository:
    """The backups below one prefix of one bucket, through one open client."""

    def __init__(self, *, client: "AioBaseClient", bucket: str, address: str, settings: BackupSettings) -> None:
        self.client: Any = client  # botocore makes its methods at run time
        self.bucket = bucket
        self.address = address
        self.settings = settings

    def data_key(self, backup_id: str) -> str:
        """Where a backup's dump is."""
        return f"{self._folder('data')}{backup_id}{_DATA_SUFFIX}"

    def manifest_key(self, backup_id: str) -> str:
        """Where a backup's manifest is."""
        return f"{self._folder('manifests')}{backup_id}{_MANIFEST_SUFFIX}"

    async def ids(self) -> list[str]:
        """The names of all backups, the newest first: 29 bytes each, which is 10 kB a year."""
        prefix = self._folder("manifests")
        keys = [entry["Key"] async for entry in self._entries(prefix)]
        names = (key.removeprefix(prefix).removesuffix(_MANIFEST_SUFFIX) for key in keys)
        return sorted(filter(is_id, names), reverse=True)

    async def manifests(self) -> AsyncGenerator[Manifest, None]:
        """All manifests, the newest first, one at a time; one that is deleted meanwhile is passed over.

        Raises:
            BackupDamaged: one cannot be read.
        """
        for backup_id in await self.ids():
            try:
                manifest = await self.get(backup_id)
            except BackupNotFound:
                continue
            yield manifest

    async def find_newest(self) -> Manifest | None:
        """The manifest of the newest backup, if there is one."""
        async for manifest in self.manifests():
            return manifest
        return None

    async def get(self, backup_id: str) -> Manifest:
        """Read a manifest.

        Raises:
            BackupNotFound: there is none.
            BackupDamaged: it cannot be read.
        """
        return (await self._get(backup_id))[0]

    async def publish(self, manifest: Manifest) -> None:
        """Write a manifest that is not there yet; from here on the backup exists. Its object must be whole already.

        Raises:
            UploadFailed: another manifest has this name.
        """
        await self._put_manifest(manifest, {"IfNoneMatch": "*"})

    async def mark_verified(self, backup_id: str, *, at: datetime) -> Manifest:
        """Say in the manifest that the backup was restored and found equal.

        Raises:
            BackupNotFound: it was pruned meanwhile.
            UploadFailed: the manifest was written by somebody else meanwhile.
        """
        manifest, etag = await self._get(backup_id)
        marked = manifest.verified(at=at)
        await self._put_manifest(marked, {"IfMatch": etag})
        return marked

    async def mark_failed(self, backup_id: str, *, at: datetime, reason: str) -> Manifest:
        """Say in the manifest that the backup does not prove right; raises as `mark_verified`."""
        manifest, etag = await self._get(backup_id)
        marked = manifest.failed(at=at, reason=reason)
        await self._put_manifest(marked, {"IfMatch": etag})
        return marked

    async def delete_manifest(self, backup_id: str) -> None:
        """Forget a backup. Idempotent. Its data stays until `delete_data`."""
        await self.client.delete_object(Bucket=self.bucket, Key=self.manifest_key(backup_id))

    async def delete_data(self, backup_id: str) -> None:
        """Delete a dump that no manifest names any more. Idempotent."""
        await self.client.delete_object(Bucket=self.bucket, Key=self.data_key(backup_id))

    def read_data(self, manifest: Manifest) -> AsyncGenerator[bytes, None]:
        """The stored, encrypted dump in pieces. It was whole when the last piece is followed by no error.

        Raises:
            BackupDamaged: the object is missing, or differs in size or SHA-256.
            StorageError: the store cannot be read.
        """
        return download(
            self.client,
            bucket=self.bucket,
            key=manifest.object_key,
            size=manifest.stored_size,
            sha256=manifest.sha256,
        )

    async def orphans(self, *, older_than: timedelta = STALE_AFTER) -> AsyncGenerator[StoredObject, None]:
        """Dumps without a manifest, by the store's clock old enough not to be in the making."""
        prefix = self._folder("data")
        known: set[str] | None = None
        async for entry, now in self._dated_entries(prefix):
            backup_id = entry["Key"].removeprefix(prefix).removesuffix(_DATA_SUFFIX)
            if not is_id(backup_id) or now - entry["LastModified"] < older_than:
                continue
            # Read after the dump was seen: a run writes its manifest later than its dump.
            known = set(await self.ids()) if known is None else known
            if backup_id not in known:
                yield StoredObject(
                    key=entry["Key"], backup_id=backup_id, size=entry["Size"], modified_at=entry["LastModified"]
                )

    async def sweep_uploads(self, *, older_than: timedelta = STALE_AFTER) -> int:
        """Abort the multipart uploads that nobody finished; their parts are paid for, and no list shows them.

        MinIO does not list them by a prefix, and forgets them by itself after a day.
        """
        swept = 0
        pages = self.client.get_paginator("list_multipart_uploads")
        async for page in pages.paginate(Bucket=self.bucket, Prefix=self._folder("data")):
            now = store_time(page)
            for upload in page.get("Uploads", []):
                if now - upload["Initiated"] < older_than:
                    continue
                with suppress(self.client.exceptions.NoSuchUpload):
                    await self.client.abort_multipart_upload(
                        Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                    swept += 1
        return swept

    def object_lock(self, created_at: datetime) -> dict[str, object]:
        """What keeps an object of this backup from being deleted for some days, when the settings ask for it."""
        return object_lock(self.settings, created_at)

    async def _get(self, backup_id: str) -> tuple[Manifest, str]:
        if not is_id(backup_id):
            raise BackupNotFound(f"{backup_id!r} is no backup's name: those look like 20260131T030000Z-0123456789ab.")
        try:
            answer = await self.client.get_object(Bucket=self.bucket, Key=self.manifest_key(backup_id))
            async with answer["Body"] as body:
                text = await body.read()
        except self.client.exceptions.NoSuchKey as error:
            raise BackupNotFound(f"{self.address} has no backup {backup_id} below {self.settings.prefix}/.") from error
        return Manifest.from_json(text), answer["ETag"]

    async def _put_manifest(self, manifest: Manifest, condition: dict[str, str]) -> None:
        text = manifest.to_json()
        taken = await put_if(
            self.client,
            condition=condition,
            Bucket=self.bucket,
            Key=self.manifest_key(manifest.id),
            Body=text,
            ContentMD5=content_md5(text),
            ContentType="application/json",
            **self.object_lock(manifest.created_at),
        )
        if not taken:
            raise UploadFailed(f"The manifest of {manifest.id} was written by somebody else.")

    async def _entries(self, prefix: str) -> AsyncIterator[dict[str, Any]]:
        async for entry, _ in self._dated_entries(prefix):
            yield entry

    async def _dated_entries(self, prefix: str) -> AsyncIterator[tuple[dict[str, Any], datetime]]:
        """The objects below a prefix, each with the store's present time."""
        async for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                yield entry, store_time(page)

    def _folder(self, name: str) -> str:
        return f"{self.settings.prefix}/{name}/"


@asynccontextmanager
async def open_repository(storage: Storage, settings: BackupSettings) -> AsyncIterator[Repository]:
    """Open the backups of a bucket: `ctx.storage` has the first ones, `Storage(settings.copy)` their copies.

    Raises:
        NoRepository: no bucket is named, or it does not exist.
        StorageError: the store refuses or cannot be reached, also inside the block.
    """
    if not storage.is_configured:
        raise NoRepository("S3_BUCKET is not set: there is nowhere to keep backups.")
    try:
        async with storage.open_client() as client:
            await _require_bucket(client, storage)  # some stores make a bucket of the first object that it gets
            yield Repository(client=client, bucket=storage.bucket, address=storage.address, settings=settings)
    except BucketMissing as error:
        raise NoRepository(str(error)) from error


async def _require_bucket(client: Any, storage: Storage) -> None:
    from botocore.exceptions import ClientError

    try:
        await client.head_bucket(Bucket=storage.bucket)
    except ClientError as error:
        if error_code(error) not in ("404", "NoSuchBucket"):
            raise
        raise NoRepository(f"There is no {storage.address}. Make it, or correct the variables that name it.") from error
