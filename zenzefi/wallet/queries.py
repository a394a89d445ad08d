"""SQL of the ledger."""

from datetime import datetime
from decimal import Decimal
from typing import cast
from uuid import UUID

import asyncpg

from zenzefi.infra.db import Connection
from zenzefi.wallet.errors import WalletOwnerNotFound
from zenzefi.wallet.models import MAX_BALANCE, LedgerEntry, Movement, TransactionType

# Both movements end alike: given the wallet as it now is, its transaction and the two postings. One statement moves
# the money, so that a wallet's row stays locked for one round trip plus whatever else its transaction does.
_INSERT_TRANSACTION_AND_POSTINGS = """
    , ledger_transaction AS (
        INSERT INTO ledger_transactions (id, transaction_type, description, payment_id, created_at)
        SELECT $1, $4, $6, $7, $8 FROM wallet
    ), postings AS (
        INSERT INTO ledger_postings (transaction_id, account_id, transaction_type, amount, entry_no, balance_after)
        SELECT $1, wallet.id, $4, $3, wallet.entry_count, wallet.balance FROM wallet
        UNION ALL
        SELECT $1, counterpart.id, $4, -$3, NULL, NULL
        FROM wallet INNER JOIN ledger_accounts AS counterpart ON counterpart.code = $5
    )
    SELECT balance, entry_count FROM wallet
"""

_INSERT_CREDIT = (
    """
    WITH wallet AS (
        INSERT INTO ledger_accounts AS account (id, kind, user_id, balance, entry_count, created_at)
        VALUES ($1, 'wallet', $2, $3, 1, $8)
        ON CONFLICT (user_id) DO UPDATE
        SET balance = account.balance + excluded.balance, entry_count = account.entry_count + 1
        WHERE account.balance <= $9 - excluded.balance
        RETURNING account.id, account.balance, account.entry_count
    )
    """  # noqa: S608  two constants of this file
    + _INSERT_TRANSACTION_AND_POSTINGS
)

_INSERT_DEBIT = (
    """
    WITH wallet AS (
        UPDATE ledger_accounts
        SET balance = balance + $3, entry_count = entry_count + 1
        WHERE user_id = $2 AND balance + $3 >= 0
        RETURNING id, balance, entry_count
    )
    """  # noqa: S608  two constants of this file
    + _INSERT_TRANSACTION_AND_POSTINGS
)

# Of a wallet's own entries; the index on (account_id, [transaction_type,] entry_no DESC) has them in this order.
_SELECT_ENTRIES = """
    SELECT
        posting.transaction_id, posting.transaction_type, posting.amount, posting.balance_after, posting.entry_no,
        ledger_transaction.description, ledger_transaction.payment_id, ledger_transaction.created_at
    FROM ledger_postings AS posting
    INNER JOIN ledger_transactions AS ledger_transaction ON ledger_transaction.id = posting.transaction_id
    WHERE posting.account_id = (SELECT id FROM ledger_accounts WHERE user_id = $1) AND posting.entry_no < $2
"""
# A subquery keeps the length of a page from the planner. It expects of any wallet what an average one holds, and where
# that is less than a page, it would read the whole history, however long, and sort it.
_FIRST_OF_THEM = " ORDER BY posting.entry_no DESC LIMIT (SELECT $3::bigint)"


async def insert_credit(conn: Connection, *, movement: Movement) -> LedgerEntry | None:
    """Add to the wallet, opening it if need be; None when it would hold more than MAX_BALANCE. Locks the wallet.

    Raises:
        WalletOwnerNotFound: there is no such user.
    """
    try:
        row = await conn.fetchrow(_INSERT_CREDIT, *_arguments(movement, movement.amount), MAX_BALANCE)
    except asyncpg.ForeignKeyViolationError as error:
        if error.constraint_name == "ledger_accounts_user_id_fkey":
            raise WalletOwnerNotFound from error
        raise
    return None if row is None else _entry(movement, movement.amount, row)


async def insert_debit(conn: Connection, *, movement: Movement) -> LedgerEntry | None:
    """Take from the wallet; None when there is none or it holds less. Locks the wallet."""
    row = await conn.fetchrow(_INSERT_DEBIT, *_arguments(movement, -movement.amount))
    return None if row is None else _entry(movement, -movement.amount, row)


async def lock_balance(conn: Connection, *, user_id: UUID) -> Decimal | None:
    """Read a wallet's balance and keep it from changing until the transaction ends; None when there is no wallet."""
    # NO KEY: the foreign key checks of other transactions need not wait.
    query = "SELECT balance FROM ledger_accounts WHERE user_id = $1 FOR NO KEY UPDATE"
    return cast(Decimal | None, await conn.fetchval(query, user_id))


async def find_balance(conn: Connection, *, user_id: UUID) -> Decimal | None:
    """Read a wallet's balance; None when there is no wallet."""
    query = "SELECT balance FROM ledger_accounts WHERE user_id = $1"
    return cast(Decimal | None, await conn.fetchval(query, user_id))


async def select_entries(conn: Connection, *, user_id: UUID, before_entry_no: int, limit: int) -> list[LedgerEntry]:
    """The newest entries of a wallet that come before an entry, newest first."""
    query = _SELECT_ENTRIES + _FIRST_OF_THEM
    return [_entry_of_row(row) for row in await conn.fetch(query, user_id, before_entry_no, limit)]


async def select_entries_of_type(
    conn: Connection, *, user_id: UUID, transaction_type: TransactionType, before_entry_no: int, limit: int
) -> list[LedgerEntry]:
    """As ``select_entries``, of one type; a query of its own, so that the plan can count on the type being given."""
    query = _SELECT_ENTRIES + "AND posting.transaction_type = $4" + _FIRST_OF_THEM
    rows = await conn.fetch(query, user_id, before_entry_no, limit, transaction_type.value)
    return [_entry_of_row(row) for row in rows]


def _arguments(
    movement: Movement, signed_amount: Decimal
) -> tuple[UUID, UUID, Decimal, str, str, str, UUID | None, datetime]:
    return (
        movement.transaction_id,
        movement.user_id,
        signed_amount,
        movement.transaction_type.value,
        movement.counterpart.value,
        movement.description,
        movement.payment_id,
        movement.now,
    )


def _entry(movement: Movement, signed_amount: Decimal, row: asyncpg.Record) -> LedgerEntry:
    return LedgerEntry(
        transaction_id=movement.transaction_id,
        transaction_type=movement.transaction_type,
        amount=signed_amount,
        balance_after=row["balance"],
        entry_no=row["entry_count"],
        description=movement.description,
        payment_id=movement.payment_id,
        created_at=movement.now,
    )


def _entry_of_row(row: asyncpg.Record) -> LedgerEntry:
    return LedgerEntry(
        transaction_id=row["transaction_id"],
        transaction_type=TransactionType(row["transaction_type"]),
        amount=row["amount"],
        balance_after=row["balance_after"],
        entry_no=row["entry_no"],
        description=row["description"],
        payment_id=row["payment_id"],
        created_at=row["created_at"],
    )
