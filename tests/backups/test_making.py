"""A backup from end to end: what is stored is one snapshot, encrypted, whole, and restores to the same rows."""

from tests.backups.restoring import restored
from zenzefi.backups.proof import differences, take_proof
from zenzefi.backups.repository import Repository
from zenzefi.backups.service import back_up
from zenzefi.context import Context


async def test_a_backup_restores_to_what_its_manifest_proves(backup_ctx: Context, repository: Repository) -> None:
    manifest = await back_up(backup_ctx)

    assert await repository.get(manifest.id) == manifest
    async with restored(backup_ctx.settings, repository, manifest) as connection:
        assert differences(manifest.proof, await take_proof(connection)) == []
