"""Use cases of the wallet, and the two steps by which every slice moves money.

Money moves in one statement that locks one row, the wallet's own: system accounts keep no balance, so that purchases
by different people never wait for each other. A transaction that moves money of several wallets does so in the order
of their owners' ids.
"""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from zenzefi.audit import service as audit
from zenzefi.audit.models import Actor
from zenzefi.context import Context
from zenzefi.infra.db import Connection
from zenzefi.wallet import notices, queries, verification
from zenzefi.wallet.counting import count_credit, count_debit
from zenzefi.wallet.errors import InsufficientFunds, InvalidAmount, WalletFull
from zenzefi.wallet.models import (
    CENT,
    MAX_BALANCE,
    LedgerEntry,
    LedgerFault,
    LedgerReport,
    LedgerRule,
    Movement,
    SystemAccount,
    TransactionType,
)

_NO_MONEY = Decimal("0.00")
_AFTER_ALL_ENTRIES = 2**63 - 1


async def credit(
    conn: Connection,
    *,
    user_id: UUID,
    amount: Decimal,
    transaction_type: TransactionType,
    description: str,
    source: SystemAccount,
    transaction_id: UUID,
    now: datetime,
    payment_id: UUID | None = None,
) -> LedgerEntry:
    """Move `amount` (ZNC, above 0) from a system account to a user's wallet, which its first credit opens.

    Locks the wallet until the transaction ends.

    Raises:
        InvalidAmount: the amount is not above 0, not finite, finer than a cent, or beyond any wallet.
        WalletFull: the wallet would hold more than MAX_BALANCE.
        WalletOwnerNotFound: there is no such user; the transaction can only be rolled back.
    """
    movement = Movement(
        transaction_id=transaction_id,
        user_id=user_id,
        counterpart=source,
        transaction_type=transaction_type,
        amount=_checked(amount),
        description=description,
        payment_id=payment_id,
        now=now,
    )
    entry = await queries.insert_credit(conn, movement=movement)
    if entry is None:
        raise WalletFull
    count_credit(conn, movement)
    return entry


async def debit(
    conn: Connection,
    *,
    user_id: UUID,
    amount: Decimal,
    transaction_type: TransactionType,
    description: str,
    destination: SystemAccount,
    transaction_id: UUID,
    now: datetime,
) -> LedgerEntry:
    """Move `amount` (ZNC, above 0) from a user's wallet to a system account.

    Locks the wallet until the transaction ends.

    Raises:
        InvalidAmount: as for ``credit``.
        InsufficientFunds: the wallet holds less, or was never opened; nothing has changed.
    """
    movement = Movement(
        transaction_id=transaction_id,
        user_id=user_id,
        counterpart=destination,
        transaction_type=transaction_type,
        amount=_checked(amount),
        description=description,
        payment_id=None,
        now=now,
    )
    entry = await queries.insert_debit(conn, movement=movement)
    if entry is None:
        # Read under the lock: a credit of this very moment must not make the refusal name an amount that suffices.
        available = await queries.lock_balance(conn, user_id=user_id) or _NO_MONEY
        if available >= amount:
            entry = await queries.insert_debit(conn, movement=movement)
        if entry is None:
            raise InsufficientFunds(needed=amount, available=available)
    count_debit(conn, movement)
    return entry


async def deposit_mock_payment(
    conn: Connection, *, ctx: Context, user_id: UUID, amount: Decimal, actor: Actor
) -> LedgerEntry:
    """Credit a top-up that nobody paid for: development's stand-in for a payment provider.

    Raises:
        WalletFull: the wallet would hold more than MAX_BALANCE.
    """
    transaction_id, now = ctx.new_id(), ctx.now()
    entry = await credit(
        conn,
        user_id=user_id,
        amount=amount,
        transaction_type=TransactionType.DEPOSIT,
        description="Mock purchase",
        source=SystemAccount.DEPOSITS,
        transaction_id=transaction_id,
        now=now,
    )
    await audit.record(
        conn,
        ctx=ctx,
        actor=actor,
        action="wallet.mock_purchase",
        resource_type="ledger_transaction",
        resource_id=transaction_id,
        after={"user_id": str(user_id), "amount": f"{entry.amount:.2f}", "balance_after": f"{entry.balance_after:.2f}"},
    )
    await notices.tell_of_payment(conn, ctx=ctx, user_id=user_id, entry=entry, reference=transaction_id)
    return entry


async def get_balance(ctx: Context, *, user_id: UUID) -> Decimal:
    """The balance of a user's wallet in ZNC; 0.00 before its first credit."""
    async with ctx.connection() as conn:
        return await queries.find_balance(conn, user_id=user_id) or _NO_MONEY


async def list_transactions(
    ctx: Context,
    *,
    user_id: UUID,
    transaction_type: TransactionType | None = None,
    before_entry_no: int | None = None,
    limit: int,
) -> tuple[list[LedgerEntry], int | None]:
    """A wallet's entries, newest first: the newest, or those before `before_entry_no`.

    With them comes the `before_entry_no` of the next page, or None when nothing follows.
    """
    before = _AFTER_ALL_ENTRIES if before_entry_no is None else before_entry_no
    rows = limit + 1  # the one more tells whether anything follows
    async with ctx.connection() as conn:
        if transaction_type is None:
            entries = await queries.select_entries(conn, user_id=user_id, before_entry_no=before, limit=rows)
        else:
            entries = await queries.select_entries_of_type(
                conn, user_id=user_id, transaction_type=transaction_type, before_entry_no=before, limit=rows
            )
    page = entries[:limit]
    return page, page[-1].entry_no if len(entries) > limit else None


async def verify(ctx: Context) -> LedgerReport:
    """Check every rule of the ledger on one snapshot of the live database; takes no locks and changes nothing."""
    async with ctx.transaction() as conn:
        await verification.begin_snapshot(conn)
        return await verify_on(conn)


async def verify_on(conn: Connection) -> LedgerReport:
    """Check every rule on the snapshot of a transaction, of whatever database: a restored one, for instance."""
    faults: list[LedgerFault] = []
    totals = await verification.select_totals(conn)
    for rule in LedgerRule:
        faults += await verification.select_faults(conn, rule=rule)
    return LedgerReport(totals=totals, faults=tuple(faults))


def _checked(amount: Decimal) -> Decimal:
    # A float would go into numeric silently, with all its binary digits; bool and int are not money either.
    if not isinstance(amount, Decimal):
        raise TypeError(f"money is a Decimal, not {type(amount).__name__}")
    if not amount.is_finite() or not CENT <= amount <= MAX_BALANCE or amount != amount.quantize(CENT):
        raise InvalidAmount
    return amount.quantize(CENT)
