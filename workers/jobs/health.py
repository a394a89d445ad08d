"""Jobs of the health slice."""

from zenzefi.context import Context
from zenzefi.health import census, service


async def refresh_health(ctx: Context) -> str:
    """Leave a fresh snapshot of the service's health for the web processes."""
    return await service.refresh_health(ctx)


async def take_snapshot(ctx: Context) -> str:
    """Count what the metrics tell of and no process knows by itself."""
    return await census.take_census(ctx)
