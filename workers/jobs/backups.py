"""Jobs of the backups slice."""

import structlog

from zenzefi.backups import pruning, service, verification
from zenzefi.context import Context
from zenzefi.errors import RedisUnavailable
from zenzefi.jobs import Job

log = structlog.get_logger("zenzefi.jobs")


async def back_up_database(ctx: Context) -> str:
    """Make a backup, and have it verified where its key is at hand; its id."""
    made = await service.back_up(ctx)
    if ctx.settings.backup.identity:
        try:
            await ctx.queue.enqueue(Job.VERIFY_BACKUP, made.id, job_id=f"{Job.VERIFY_BACKUP}:{made.id}")
        except RedisUnavailable:
            # Trying this run again would make the whole backup once more; the daily run verifies it.
            log.warning("backup_verification_not_enqueued", backup=made.id)
    return made.id


async def verify_backup(ctx: Context, backup_id: str | None = None) -> str | None:
    """Verify a backup, by default the newest that was not tried yet; its id."""
    if backup_id is None and (backup_id := await verification.find_untried(ctx)) is None:
        return None
    return (await verification.verify(ctx, backup_id=backup_id)).id


async def prune_backups(ctx: Context) -> str:
    """Delete what need not be kept any longer; what came of it."""
    return await pruning.prune_and_log(ctx)
