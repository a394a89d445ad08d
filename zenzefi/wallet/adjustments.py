"""Corrections of a wallet by hand: a transaction like any other, with its reason, and never an overwritten balance."""

from decimal import Decimal
from uuid import UUID

from zenzefi.audit import service as audit
from zenzefi.audit.models import Actor
from zenzefi.context import Context
from zenzefi.infra.db import Connection
from zenzefi.wallet import notices, service
from zenzefi.wallet.models import LedgerEntry, SystemAccount, TransactionType


async def adjust(
    conn: Connection, *, ctx: Context, user_id: UUID, amount: Decimal, reason: str, actor: Actor
) -> LedgerEntry:
    """Move `amount` (ZNC, not 0) into a user's wallet or, below 0, out of it. The owner sees the reason.

    Locks the wallet until the transaction ends.

    Raises:
        InvalidAmount: 0, finer than a cent, or beyond any wallet.
        InsufficientFunds: the wallet holds less than is to be taken.
        WalletFull: it would hold more than it can.
        WalletOwnerNotFound: there is no such user; the transaction can only be rolled back.
    """
    transaction_id, now = ctx.new_id(), ctx.now()
    if amount < 0:
        entry = await service.debit(
            conn,
            user_id=user_id,
            amount=-amount,
            transaction_type=TransactionType.ADJUSTMENT,
            description=reason,
            destination=SystemAccount.ADJUSTMENTS,
            transaction_id=transaction_id,
            now=now,
        )
    else:
        entry = await service.credit(
            conn,
            user_id=user_id,
            amount=amount,
            transaction_type=TransactionType.ADJUSTMENT,
            description=reason,
            source=SystemAccount.ADJUSTMENTS,
            transaction_id=transaction_id,
            now=now,
        )
    await audit.record(
        conn,
        ctx=ctx,
        actor=actor,
        action="wallet.adjust",
        resource_type="user",
        resource_id=user_id,
        before={"balance": f"{entry.balance_after - entry.amount:.2f}"},
        after={
            "balance": f"{entry.balance_after:.2f}",
            "amount": f"{entry.amount:.2f}",
            "reason": reason,
            "transaction_id": str(transaction_id),
        },
    )
    await notices.tell_of_low_balance(conn, ctx=ctx, user_id=user_id, entry=entry)
    return entry
