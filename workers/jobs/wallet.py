"""Jobs of the wallet slice."""

from zenzefi.context import Context
from zenzefi.wallet import inspection, settlement


async def heal_payments(ctx: Context) -> int:
    """Ask the payment providers about payments that no event came for."""
    return await settlement.heal(ctx)


async def inspect_ledger(ctx: Context) -> str:
    """Verify every rule of the ledger."""
    return await inspection.inspect_ledger(ctx)
