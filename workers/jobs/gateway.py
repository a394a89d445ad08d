"""Jobs of the gateway slice."""

from zenzefi.context import Context
from zenzefi.gateway import service


async def close_idle_sessions(ctx: Context) -> int:
    """Close the sessions that nobody used for a while."""
    return await service.close_idle_sessions(ctx)
