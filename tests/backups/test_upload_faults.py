"""What S3 may do to a backup: fail once, fail for ever, or do what it was asked and say that it did not."""

from datetime import timedelta

import pytest

from tests.backups.ballast import add_ballast
from tests.backups.requests import completion, conditional, data_get, manifest_put, part
from tests.support.s3_faults import Fault, FaultyS3
from zenzefi.backups import upload
from zenzefi.backups.errors import BackupDamaged
from zenzefi.backups.repository import Repository, open_repository
from zenzefi.backups.service import back_up
from zenzefi.context import Context
from zenzefi.infra import storage
from zenzefi.infra.storage import StorageError


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "MIN_PART", 5 * upload.MIB)  # the least that S3 takes
    monkeypatch.setattr(storage, "_ATTEMPTS", 2)  # some seconds less of waiting


async def test_one_failure_of_each_kind_is_survived(
    faulty_ctx: Context, faults: FaultyS3, repository: Repository
) -> None:
    await add_ballast(faulty_ctx.settings, megabytes=7)
    refused = faults.inject(Fault.REFUSE, part(2))
    lost = faults.inject(Fault.FORGET, completion)
    unheard = faults.inject(Fault.FORGET, manifest_put)

    manifest = await back_up(faulty_ctx)

    assert refused.count == lost.count == unheard.count == 1
    assert await repository.ids() == [manifest.id]
    assert sum([len(piece) async for piece in repository.read_data(manifest)]) == manifest.stored_size


async def test_failures_for_ever_are_loud_and_leave_the_previous_backup_alone(
    faulty_ctx: Context, faults: FaultyS3, repository: Repository
) -> None:
    previous = await back_up(faulty_ctx)

    for matches in (part(1), completion, manifest_put):
        rule = faults.inject(Fault.REFUSE, matches, times=None)
        with pytest.raises(StorageError, match="by the test"):
            await back_up(faulty_ctx)
        assert rule.met.is_set()
        faults.clear()
        assert await repository.sweep_uploads(older_than=timedelta(0)) == 0, "no parts are left"

    assert await repository.ids() == [previous.id]
    orphans = [orphan async for orphan in repository.orphans(older_than=timedelta(0))]
    assert len(orphans) == 1, "only the dump whose manifest may or may not have been written stays"
    assert sum([len(piece) async for piece in repository.read_data(previous)]) == previous.stored_size


async def test_a_completion_that_is_never_answered_succeeds_when_the_object_is_there(
    faulty_ctx: Context, faults: FaultyS3, repository: Repository
) -> None:
    faults.inject(Fault.FORGET, completion, times=None)

    manifest = await back_up(faulty_ctx)

    assert await repository.ids() == [manifest.id]


async def test_a_store_without_conditional_writes_will_do(
    faulty_ctx: Context, faults: FaultyS3, repository: Repository
) -> None:
    rule = faults.inject(Fault.UNKNOWN, conditional, times=None)

    manifest = await back_up(faulty_ctx)
    async with open_repository(faulty_ctx.storage, faulty_ctx.settings.backup) as behind_proxy:
        marked = await behind_proxy.mark_verified(manifest.id, at=faulty_ctx.now())

    assert rule.met.is_set()
    assert await repository.get(manifest.id) == marked


async def test_a_download_goes_on_where_it_was_cut(faulty_ctx: Context, faults: FaultyS3) -> None:
    await add_ballast(faulty_ctx.settings, megabytes=7)
    manifest = await back_up(faulty_ctx)
    faults.inject(Fault.CUT, data_get, times=3)

    async with open_repository(faulty_ctx.storage, faulty_ctx.settings.backup) as repository:
        size = sum([len(piece) async for piece in repository.read_data(manifest)])

    assert size == manifest.stored_size


async def test_a_bit_that_turned_on_the_way_is_noticed(faulty_ctx: Context, faults: FaultyS3) -> None:
    manifest = await back_up(faulty_ctx)
    faults.inject(Fault.FLIP, data_get)

    async with open_repository(faulty_ctx.storage, faulty_ctx.settings.backup) as repository:
        with pytest.raises(BackupDamaged, match="SHA-256"):
            async for _ in repository.read_data(manifest):
                pass
