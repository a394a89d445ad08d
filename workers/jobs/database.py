"""Jobs that look after the database itself."""

from zenzefi.context import Context
from zenzefi.infra import partitions
from zenzefi.web import idempotency


async def make_partitions(ctx: Context) -> int:
    """Make the monthly partitions ahead of time, and those of rows that came before theirs; how many rows moved."""
    async with ctx.connection() as conn:
        await partitions.make_partitions_ahead(conn)
        return await partitions.empty_default_partitions(conn)


async def purge_idempotency_keys(ctx: Context) -> int:
    """Delete the answers that no retry may ask for any more."""
    return await idempotency.purge_idempotency_keys(ctx)
