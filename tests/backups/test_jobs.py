"""The backups' jobs, one after the other."""

from workers.jobs import backups
from zenzefi.backups.repository import Repository
from zenzefi.context import Context, open_context
from zenzefi.infra.queue import open_queue_client, queue_key
from zenzefi.jobs import Job, Queue
from zenzefi.settings import Settings


async def _waiting(settings: Settings) -> list[str]:
    """The verifications that are in the queue, which other tests leave theirs in; those not quite due yet, too."""
    queue = open_queue_client(settings)
    try:
        jobs = [job.decode() for job in await queue.zrange(queue_key(Queue.HEAVY), 0, -1)]
    finally:
        await queue.aclose()
    return sorted(job for job in jobs if job.startswith(f"{Job.VERIFY_BACKUP}:"))


async def test_a_backup_has_itself_verified(backup_ctx: Context, repository: Repository) -> None:
    made = await backups.back_up_database(backup_ctx)

    assert f"{Job.VERIFY_BACKUP}:{made}" in await _waiting(backup_ctx.settings)
    assert await backups.verify_backup(backup_ctx) == made  # the daily run finds it, too, were the job lost
    assert (await repository.get(made)).is_verified
    assert await backups.verify_backup(backup_ctx) is None


async def test_without_the_secret_key_nothing_waits(backup_env: dict[str, str]) -> None:
    async with open_context(Settings.from_env({**backup_env, "BACKUP_IDENTITY": ""})) as ctx:
        before = await _waiting(ctx.settings)

        await backups.back_up_database(ctx)

        assert await _waiting(ctx.settings) == before
