"""Manifests and what they name: written once, read newest first, and never trusted when they cannot be read."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zenzefi.backups.errors import BackupDamaged, BackupNotFound, UploadFailed
from zenzefi.backups.findings import FACT, note
from zenzefi.backups.models import Manifest, SnapshotProof, TableProof, is_id, make_id
from zenzefi.backups.repository import Repository
from zenzefi.context import Context
from zenzefi.infra import facts

MADE_AT = datetime(2026, 1, 31, 3, 0, 0, tzinfo=UTC)


def _manifest(*, days_ago: int = 0, run: int = 1) -> Manifest:
    created_at, run_id = MADE_AT - timedelta(days=days_ago), UUID(int=run)
    backup_id = make_id(run_id, created_at=created_at)
    return Manifest(
        id=backup_id,
        run_id=run_id,
        created_at=created_at,
        finished_at=created_at + timedelta(seconds=12.5),
        database="zenzefi",
        server_version="18.6",
        pg_dump_version="18.6",
        zenzefi_version="0.1.0",
        key_ids=("0123456789abcdef",),
        object_key=f"backups/data/{backup_id}.dump.age",
        stored_size=1234,
        sha256="00" * 32,
        proof=SnapshotProof(
            migration_head="0014.backups",
            tables={"public.users": TableProof(rows=2, digest="-1:2")},
            sequences={"public.counter": -7},
            schema={"columns": "ab" * 32},
        ),
    )


def test_a_manifest_is_read_as_it_was_written() -> None:
    manifest = _manifest()
    marked = manifest.failed(at=MADE_AT, reason="public.users: 1 rows instead of 2 …")

    assert Manifest.from_json(manifest.to_json()) == manifest
    assert Manifest.from_json(marked.to_json()) == marked
    assert Manifest.from_json(marked.verified(at=MADE_AT).to_json()).is_verified
    assert manifest.proof.rows == 2


@given(data=st.data())
def test_a_manifest_that_was_cut_off_or_is_something_else_is_damaged(data: st.DataObject) -> None:
    text = _manifest().to_json().rstrip()
    with pytest.raises(BackupDamaged):
        Manifest.from_json(text[: data.draw(st.integers(0, len(text) - 1))])
    with pytest.raises(BackupDamaged):
        Manifest.from_json(
            data.draw(st.binary() | st.sampled_from([b"[]", b"null", b'{"format": 1}', b'{"format": 9}']))
        )


def test_names_sort_by_time_and_nothing_else_is_one() -> None:
    ids = [_manifest(days_ago=days).id for days in (0, 1, 31, 400)]

    assert sorted(ids, reverse=True) == ids
    assert all(is_id(backup_id) for backup_id in ids)
    assert not any(is_id(text) for text in ("", "..", "../manifests/x", f"{ids[0]}/", f"{ids[0]}\n", ids[0].lower()))


async def test_manifests_come_newest_first_and_each_is_published_once(repository: Repository) -> None:
    manifests = [_manifest(days_ago=days) for days in (1, 0, 2)]
    for manifest in manifests:
        await repository.publish(manifest)
    with pytest.raises(UploadFailed):
        await repository.publish(replace(manifests[0], stored_size=1))

    assert [manifest.id async for manifest in repository.manifests()] == await repository.ids()
    assert [manifest async for manifest in repository.manifests()] == [manifests[1], manifests[0], manifests[2]]
    newest = await repository.find_newest()
    assert newest == manifests[1]

    await repository.delete_manifest(newest.id)
    await repository.delete_manifest(newest.id)
    assert await repository.find_newest() == manifests[0]
    for use in (repository.get(newest.id), repository.get("../x"), repository.mark_verified(newest.id, at=MADE_AT)):
        with pytest.raises(BackupNotFound):
            await use


async def test_a_mark_is_kept_and_a_missing_dump_is_noticed(repository: Repository) -> None:
    manifest = _manifest()
    await repository.publish(manifest)

    failed = await repository.mark_failed(manifest.id, at=MADE_AT, reason="it is not there")

    assert await repository.get(manifest.id) == failed == manifest.failed(at=MADE_AT, reason="it is not there")
    with pytest.raises(BackupDamaged, match="no such object"):
        async for _ in repository.read_data(manifest):
            pass


async def test_what_was_found_is_kept_for_the_metrics(backup_ctx: Context, repository: Repository) -> None:
    assert (await note(backup_ctx, repository))["last_success"] is None
    for days in (0, 1, 2):
        await repository.publish(_manifest(days_ago=days))
    await repository.mark_verified(_manifest(days_ago=1).id, at=MADE_AT)
    await repository.mark_failed(_manifest(days_ago=2).id, at=MADE_AT, reason="no")
    await repository.client.put_object(
        Bucket=repository.bucket, Key=repository.manifest_key(_manifest(days_ago=9).id), Body=b"{"
    )

    document = await note(backup_ctx, repository)

    assert document == {
        "last_success": MADE_AT.timestamp(),
        "last_verified": (MADE_AT - timedelta(days=1)).timestamp(),
        "size_bytes": 1234,
        "duration_s": 12.5,
        "count": 4,
        "failed_verifications": 2,
    }
    async with backup_ctx.connection() as conn:
        assert (await facts.read_all(conn))[FACT][1] == document
