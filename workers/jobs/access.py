"""Jobs of the access slice."""

from zenzefi.access import referral_bonuses, service
from zenzefi.context import Context


async def end_expired_tokens(ctx: Context) -> int:
    """Mark the tokens whose time is over as ended."""
    return await service.end_expired_tokens(ctx)


async def pay_referral_bonuses(ctx: Context) -> int:
    """Pay the referral bonuses of purchases that are final."""
    return await referral_bonuses.pay_due(ctx)
