"""Jobs of the backups slice."""

from zenzefi.backups import pruning, service
from zenzefi.context import Context


async def back_up_database(ctx: Context) -> str:
    """Make a backup; its id."""
    return (await service.back_up(ctx)).id


async def prune_backups(ctx: Context) -> str:
    """Delete what need not be kept any longer; what came of it."""
    return (await pruning.prune(ctx)).summary
