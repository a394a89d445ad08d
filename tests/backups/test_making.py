"""A backup from end to end: what is stored is one snapshot, encrypted, whole, and restores to the same rows."""

from tests.backups.restoring import restored
from zenzefi.backups.proof import differences, take_proof
from zenzefi.backups.repository import Repository
from zenzefi.backups.service import back_up
from zenzefi.context import Context, open_context
from zenzefi.settings import Settings


async def test_a_backup_restores_to_what_its_manifest_proves(backup_ctx: Context, repository: Repository) -> None:
    manifest = await back_up(backup_ctx)

    assert await repository.get(manifest.id) == manifest
    async with restored(backup_ctx.settings, repository, manifest) as connection:
        assert differences(manifest.proof, await take_proof(connection)) == []


async def test_stores_of_the_newer_checksums_get_them(backup_env: dict[str, str], repository: Repository) -> None:
    settings = Settings.from_env({**backup_env, "S3_CHECKSUMS": "when_supported"})

    async with open_context(settings) as ctx:
        manifest = await back_up(ctx)

    assert sum([len(piece) async for piece in repository.read_data(manifest)]) == manifest.stored_size
    assert await repository.ids() == [manifest.id]
