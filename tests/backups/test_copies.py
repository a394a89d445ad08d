"""The second destination, and objects that nobody may delete for a while."""

from datetime import timedelta
from uuid import uuid4

import pytest

from tests.backups.requests import data_get
from tests.conftest import BUCKET
from tests.support.s3_faults import Fault, FaultyS3
from zenzefi.backups.errors import CopyFailed, UploadFailed
from zenzefi.backups.repository import Repository, open_repository
from zenzefi.backups.service import back_up
from zenzefi.context import open_context
from zenzefi.infra.storage import Storage
from zenzefi.settings import Settings


@pytest.fixture
async def second_bucket(repository: Repository) -> str:
    """An empty bucket, made with Object Lock."""
    name = f"copies-{uuid4().hex[:12]}"
    await repository.client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


def _with_copy(env: dict[str, str], bucket: str, **variables: str) -> Settings:
    second = {f"BACKUP_COPY_{name}": env[name] for name in ("S3_ENDPOINT_URL", "S3_ACCESS_KEY", "S3_SECRET_KEY")}
    return Settings.from_env({**env, **second, "BACKUP_COPY_S3_BUCKET": bucket, **variables})


def _storage_of_copies(settings: Settings) -> Storage:
    assert settings.backup.copy is not None
    return Storage(settings.backup.copy)


async def test_a_backup_is_at_both_destinations(
    backup_env: dict[str, str], repository: Repository, second_bucket: str
) -> None:
    settings = _with_copy(backup_env, second_bucket)
    phases: list[str] = []

    async with open_context(settings) as ctx:
        manifest = await back_up(ctx, progress=lambda progress: phases.append(progress.phase))

    assert list(dict.fromkeys(phases)) == ["backing up", "copying", "checking the copy"]
    assert await repository.get(manifest.id) == manifest
    async with open_repository(_storage_of_copies(settings), settings.backup) as copies:
        assert await copies.get(manifest.id) == manifest
        assert sum([len(piece) async for piece in copies.read_data(manifest)]) == manifest.stored_size


async def test_a_copy_that_fails_is_loud_and_the_backup_stays(
    backup_env: dict[str, str], repository: Repository
) -> None:
    settings = _with_copy(backup_env, "nobodys")

    async with open_context(settings) as ctx:
        with pytest.raises(CopyFailed, match=r"is stored at .*, and its copy failed: .*nobodys"):
            await back_up(ctx)

    assert len(await repository.ids()) == 1


async def test_a_copy_that_differs_gets_no_manifest(
    backup_env: dict[str, str], repository: Repository, second_bucket: str, faults: FaultyS3
) -> None:
    settings = _with_copy(backup_env, second_bucket, BACKUP_COPY_S3_ENDPOINT_URL=faults.url)
    rule = faults.inject(Fault.FLIP, data_get)

    async with open_context(settings) as ctx:
        with pytest.raises(CopyFailed, match="SHA-256"):
            await back_up(ctx)

    assert rule.met.is_set()
    assert len(await repository.ids()) == 1
    async with open_repository(_storage_of_copies(settings), settings.backup) as copies:
        assert await copies.ids() == []


async def test_locked_objects_outlive_their_deletion(
    backup_env: dict[str, str], repository: Repository, second_bucket: str
) -> None:
    settings = Settings.from_env(
        {
            **backup_env,
            "S3_BUCKET": second_bucket,
            "BACKUP_OBJECT_LOCK_DAYS": "5",
            "BACKUP_OBJECT_LOCK_MODE": "compliance",
        }
    )

    async with open_context(settings) as ctx:
        manifest = await back_up(ctx)
        async with open_repository(ctx.storage, settings.backup) as locked:
            marked = await locked.mark_verified(manifest.id, at=ctx.now())
            for key in (locked.data_key(manifest.id), locked.manifest_key(manifest.id)):
                held = await locked.client.head_object(Bucket=second_bucket, Key=key)
                assert held["ObjectLockMode"] == "COMPLIANCE"
                kept_for = held["ObjectLockRetainUntilDate"] - manifest.created_at
                assert abs(kept_for - timedelta(days=5)) < timedelta(seconds=2)
            assert await locked.get(manifest.id) == marked


async def test_a_bucket_without_object_lock_is_told_of(backup_env: dict[str, str]) -> None:
    settings = Settings.from_env({**backup_env, "S3_BUCKET": BUCKET, "BACKUP_OBJECT_LOCK_DAYS": "5"})

    async with open_context(settings) as ctx:
        with pytest.raises(UploadFailed, match="BACKUP_OBJECT_LOCK_DAYS=0"):
            await back_up(ctx)
