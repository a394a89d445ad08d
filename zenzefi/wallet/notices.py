"""What people are told by mail of their wallet: that a payment has come, and that little is left."""

from uuid import UUID

from zenzefi.context import Context
from zenzefi.infra.db import Connection
from zenzefi.mail import service as mail
from zenzefi.mail.models import MailKind
from zenzefi.mail.rendering import format_instant
from zenzefi.wallet.models import LedgerEntry


async def tell_of_payment(
    conn: Connection, *, ctx: Context, user_id: UUID, entry: LedgerEntry, reference: UUID
) -> None:
    """Write a mail about a payment in the transaction that credits it; `reference` is the payment's id."""
    await mail.queue(
        conn,
        ctx=ctx,
        user_id=user_id,
        kind=MailKind.PAYMENT_RECEIVED,
        event_id=reference,
        details={
            "amount": f"{entry.amount:.2f}",
            "balance": f"{entry.balance_after:.2f}",
            "received_at": format_instant(entry.created_at),
            "reference": str(reference),
        },
    )


async def tell_of_low_balance(conn: Connection, *, ctx: Context, user_id: UUID, entry: LedgerEntry) -> None:
    """Write a mail when this debit, whose transaction it is, took the balance below the line.

    Whoever is below it already is not told again before the balance has been above it: the wallet's lock puts its
    entries in one order, in which each crossing has an entry of its own.
    """
    line = ctx.settings.mail.low_balance
    if not entry.balance_after < line <= entry.balance_after - entry.amount:
        return
    await mail.queue(
        conn,
        ctx=ctx,
        user_id=user_id,
        kind=MailKind.LOW_BALANCE,
        event_id=entry.transaction_id,
        details={"balance": f"{entry.balance_after:.2f}"},
    )
