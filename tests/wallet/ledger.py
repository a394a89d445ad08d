"""What the wallet's tests share: owners of wallets, and single movements each in a transaction of its own."""

import asyncio
from decimal import Decimal
from uuid import UUID

from zenzefi.context import Context
from zenzefi.infra.db import Connection
from zenzefi.wallet import service
from zenzefi.wallet.models import LedgerEntry, SystemAccount, TransactionType


async def insert_user(ctx: Context) -> UUID:
    """A user without a login: most tests of the ledger need nothing but somebody to own a wallet."""
    user_id = ctx.new_id()
    async with ctx.transaction() as conn:
        await conn.execute(
            """
            INSERT INTO users (id, email, username, password_hash, referral_code, created_at, updated_at)
            VALUES ($1, $2, $3, '-', $3, $4, $4)
            """,
            user_id,
            f"{user_id}@example.com",
            user_id.hex,
            ctx.now(),
        )
    return user_id


async def credit_step(
    ctx: Context,
    conn: Connection,
    user_id: UUID,
    amount: Decimal,
    transaction_type: TransactionType = TransactionType.DEPOSIT,
) -> LedgerEntry:
    """A credit inside a transaction."""
    return await service.credit(
        conn,
        user_id=user_id,
        amount=amount,
        transaction_type=transaction_type,
        description="A credit of the tests",
        source=SystemAccount.DEPOSITS,
        transaction_id=ctx.new_id(),
        now=ctx.now(),
    )


async def debit_step(ctx: Context, conn: Connection, user_id: UUID, amount: Decimal) -> LedgerEntry:
    """A debit inside a transaction."""
    return await service.debit(
        conn,
        user_id=user_id,
        amount=amount,
        transaction_type=TransactionType.PURCHASE,
        description="A debit of the tests",
        destination=SystemAccount.REVENUE,
        transaction_id=ctx.new_id(),
        now=ctx.now(),
    )


async def credit(
    ctx: Context, user_id: UUID, amount: Decimal, transaction_type: TransactionType = TransactionType.DEPOSIT
) -> LedgerEntry:
    """A credit of its own."""
    async with ctx.transaction() as conn:
        return await credit_step(ctx, conn, user_id, amount, transaction_type)


async def debit(ctx: Context, user_id: UUID, amount: Decimal) -> LedgerEntry:
    """A debit of its own."""
    async with ctx.transaction() as conn:
        return await debit_step(ctx, conn, user_id, amount)


async def until_a_lock_is_waited_for(ctx: Context) -> None:
    """Wait until some session of this database waits for a lock."""
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(30), ctx.connection() as conn:
        while True:
            if await conn.fetchval(query):
                return
            await asyncio.sleep(0.005)  # the server has no event for it
