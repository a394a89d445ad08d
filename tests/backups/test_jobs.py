"""The backups' jobs, one after the other."""

import asyncio

from workers.jobs import backups
from zenzefi.backups.repository import Repository
from zenzefi.context import Context, open_context
from zenzefi.jobs import Queue
from zenzefi.settings import Settings


async def _count_waiting(ctx: Context) -> int:
    return (await ctx.queue.read_state())[Queue.HEAVY].waiting


async def test_a_backup_has_itself_verified(backup_ctx: Context, repository: Repository) -> None:
    before = await _count_waiting(backup_ctx)

    made = await backups.back_up_database(backup_ctx)

    async with asyncio.timeout(10):
        while await _count_waiting(backup_ctx) != before + 1:  # noqa: ASYNC110  arq rounds to when it is due: not quite yet
            await asyncio.sleep(0.01)
    assert await backups.verify_backup(backup_ctx) == made  # the daily run finds it, too, were the job lost
    assert (await repository.get(made)).is_verified
    assert await backups.verify_backup(backup_ctx) is None


async def test_without_the_secret_key_nothing_waits(backup_env: dict[str, str]) -> None:
    async with open_context(Settings.from_env({**backup_env, "BACKUP_IDENTITY": ""})) as ctx:
        before = await _count_waiting(ctx)

        await backups.back_up_database(ctx)

        assert await _count_waiting(ctx) == before
