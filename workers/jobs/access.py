"""Jobs of the access slice."""

from zenzefi.access import service
from zenzefi.context import Context


async def end_expired_tokens(ctx: Context) -> int:
    """Mark the tokens whose time is over as ended."""
    return await service.end_expired_tokens(ctx)
