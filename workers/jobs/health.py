"""Jobs of the health slice."""

from zenzefi.context import Context
from zenzefi.health import service


async def refresh_health(ctx: Context) -> str:
    """Leave a fresh snapshot of the service's health for the web processes."""
    return await service.refresh_health(ctx)
