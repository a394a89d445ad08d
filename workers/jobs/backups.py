"""Jobs of the backups slice."""

from zenzefi.backups import service
from zenzefi.context import Context


async def back_up_database(ctx: Context) -> str:
    """Make a backup; its id."""
    return (await service.back_up(ctx)).id
