"""Jobs of usage."""

from zenzefi.context import Context
from zenzefi.rollups import service


async def roll_up_usage(ctx: Context) -> int:
    """Sum what was metered by the hour and by the day."""
    return await service.roll_up_usage(ctx)


async def drop_old_usage(ctx: Context) -> int:
    """Drop the usage that is older than it is kept."""
    return await service.drop_old_usage(ctx)
