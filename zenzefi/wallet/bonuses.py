"""The escrow of referral bonuses: money that is set aside from the revenue until it is known whose it is.

Its account in the ledger, `bonuses`, holds the sum of all bonuses that are held. Both sides of a movement into it or
back are system accounts, which keep no balance and no order of entries, so that nobody waits for anybody.
"""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from zenzefi.infra.db import Connection
from zenzefi.wallet import bonus_queries, service
from zenzefi.wallet.models import LedgerEntry, SystemAccount, TransactionType


async def hold(conn: Connection, *, amount: Decimal, transaction_id: UUID, now: datetime) -> None:
    """Set `amount` (ZNC, above 0) aside from the revenue."""
    await bonus_queries.insert_transfer(
        conn,
        transaction_id=transaction_id,
        transaction_type=TransactionType.REFERRAL_BONUS,
        description="Referral bonus held",
        amount=amount,
        source=SystemAccount.REVENUE,
        destination=SystemAccount.BONUSES,
        now=now,
    )


async def take_back(conn: Connection, *, amount: Decimal, transaction_id: UUID, now: datetime) -> None:
    """Return `amount` (ZNC, above 0) of what was held to the revenue."""
    await bonus_queries.insert_transfer(
        conn,
        transaction_id=transaction_id,
        transaction_type=TransactionType.REFERRAL_BONUS,
        description="Referral bonus taken back",
        amount=amount,
        source=SystemAccount.BONUSES,
        destination=SystemAccount.REVENUE,
        now=now,
    )


async def pay_out(
    conn: Connection, *, user_id: UUID, amount: Decimal, transaction_id: UUID, now: datetime
) -> LedgerEntry:
    """Give `amount` (ZNC, above 0) of what was held to a user. Locks their wallet until the transaction ends.

    Raises:
        WalletFull: the wallet would hold more than it can.
    """
    return await service.credit(
        conn,
        user_id=user_id,
        amount=amount,
        transaction_type=TransactionType.REFERRAL_BONUS,
        description="Referral bonus",
        source=SystemAccount.BONUSES,
        transaction_id=transaction_id,
        now=now,
    )
