"""Jobs of the wallet slice."""

from zenzefi.context import Context
from zenzefi.wallet import settlement


async def heal_payments(ctx: Context) -> int:
    """Ask the payment providers about payments that no event came for."""
    return await settlement.heal(ctx)
