"""Jobs of mail."""

from zenzefi.access import expiry_notices
from zenzefi.context import Context
from zenzefi.mail import sending, service


async def send_mail(ctx: Context) -> int:
    """Hand in the mails that are due."""
    return await sending.send_due(ctx)


async def announce_expiring_tokens(ctx: Context) -> int:
    """Write mails to those whose tokens end soon."""
    return await expiry_notices.announce_expiring_tokens(ctx)


async def purge_mail(ctx: Context) -> int:
    """Delete old mails."""
    return await service.purge(ctx)
