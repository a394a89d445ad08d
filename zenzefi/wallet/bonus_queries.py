"""SQL of movements between two system accounts."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from zenzefi.infra.db import Connection
from zenzefi.wallet.models import SystemAccount, TransactionType


async def insert_transfer(
    conn: Connection,
    *,
    transaction_id: UUID,
    transaction_type: TransactionType,
    description: str,
    amount: Decimal,
    source: SystemAccount,
    destination: SystemAccount,
    now: datetime,
) -> None:
    """Move `amount` (above 0) from one system account to another; locks nothing."""
    await conn.execute(
        """
        WITH ledger_transaction AS (
            INSERT INTO ledger_transactions (id, transaction_type, description, created_at)
            VALUES ($1, $2, $3, $7)
        )
        INSERT INTO ledger_postings (transaction_id, account_id, transaction_type, amount)
        SELECT $1, id, $2, CASE code WHEN $6 THEN $4::numeric ELSE -$4::numeric END
        FROM ledger_accounts WHERE code IN ($5, $6)
        """,
        transaction_id,
        transaction_type.value,
        description,
        amount,
        source.value,
        destination.value,
        now,
    )
