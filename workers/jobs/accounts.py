"""Jobs of the accounts slice."""

from zenzefi.accounts import logins
from zenzefi.context import Context


async def purge_expired_logins(ctx: Context) -> int:
    """Delete refresh tokens that have expired, and the logins that none is left of."""
    return await logins.purge_expired_logins(ctx)
