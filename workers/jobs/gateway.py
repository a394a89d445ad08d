"""Jobs of the gateway slice."""

from zenzefi.context import Context
from zenzefi.gateway import sessions


async def close_idle_sessions(ctx: Context) -> int:
    """Close the sessions that nobody used for a while."""
    return await sessions.close_idle_sessions(ctx)


async def purge_sessions(ctx: Context) -> int:
    """Delete the sessions that ended longer ago than they are kept."""
    return await sessions.purge_sessions(ctx)
