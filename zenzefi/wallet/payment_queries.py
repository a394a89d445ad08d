"""SQL of payments and their timeline."""

from datetime import datetime
from uuid import UUID

import asyncpg

from zenzefi.infra.db import Connection
from zenzefi.settings import PaymentProviderName
from zenzefi.wallet.payment_models import Payment, PaymentEvent, PaymentStatus, TimelineEntry

_COLUMNS = """
    id, user_id, provider, provider_payment_id, status, amount_znc, amount, currency, return_url, payment_url,
    created_at
"""


async def insert_payment(conn: Connection, *, payment: Payment, next_check_at: datetime) -> None:
    """Insert a payment that no provider has heard of yet."""
    await conn.execute(
        """
        INSERT INTO payments (id, user_id, provider, status, amount_znc, amount, currency, return_url, next_check_at,
                              created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        """,
        payment.id,
        payment.user_id,
        payment.provider.value,
        payment.status.value,
        payment.amount_znc,
        payment.amount,
        payment.currency,
        payment.return_url,
        next_check_at,
        payment.created_at,
    )


async def insert_event(
    conn: Connection, *, event_id: UUID, payment_id: UUID, event: PaymentEvent, at: datetime
) -> None:
    """Append a line to a payment's timeline."""
    query = "INSERT INTO payment_events (id, payment_id, event, at) VALUES ($1, $2, $3, $4)"
    await conn.execute(query, event_id, payment_id, event.value, at)


async def find_payment(conn: Connection, *, payment_id: UUID) -> Payment | None:
    """Read a payment."""
    return _payment(await conn.fetchrow(f"SELECT {_COLUMNS} FROM payments WHERE id = $1", payment_id))  # noqa: S608


async def find_payment_of_user(conn: Connection, *, payment_id: UUID, user_id: UUID) -> Payment | None:
    """Read a payment of a user's own."""
    query = f"SELECT {_COLUMNS} FROM payments WHERE id = $1 AND user_id = $2"  # noqa: S608  a constant of this file
    return _payment(await conn.fetchrow(query, payment_id, user_id))


async def find_payment_of_provider(
    conn: Connection, *, provider: PaymentProviderName, provider_payment_id: str
) -> Payment | None:
    """Read a payment by the provider's id of it."""
    query = f"SELECT {_COLUMNS} FROM payments WHERE provider = $1 AND provider_payment_id = $2"  # noqa: S608
    return _payment(await conn.fetchrow(query, provider.value, provider_payment_id))


async def lock_payment(conn: Connection, *, payment_id: UUID) -> Payment | None:
    """Read a payment and keep it from changing until the transaction ends."""
    query = f"SELECT {_COLUMNS} FROM payments WHERE id = $1 FOR NO KEY UPDATE"  # noqa: S608  a constant of this file
    return _payment(await conn.fetchrow(query, payment_id))


async def select_events(conn: Connection, *, payment_id: UUID) -> list[TimelineEntry]:
    """A payment's timeline, the oldest first."""
    query = "SELECT event, at FROM payment_events WHERE payment_id = $1 ORDER BY at, id"
    return [
        TimelineEntry(event=PaymentEvent(row["event"]), at=row["at"]) for row in await conn.fetch(query, payment_id)
    ]


async def claim_opening(conn: Connection, *, payment_id: UUID, now: datetime, until: datetime) -> Payment | None:
    """Take the lease to open a payment at its provider; None when it is open, has ended, or another has the lease."""
    row = await conn.fetchrow(
        f"""
        UPDATE payments
        SET opening_until = $3
        WHERE
            id = $1 AND status = 'pending' AND payment_url IS NULL
            AND (opening_until IS NULL OR opening_until <= $2)
        RETURNING {_COLUMNS}
        """,  # noqa: S608  a constant of this file
        payment_id,
        now,
        until,
    )
    return _payment(row)


async def release_opening(conn: Connection, *, payment_id: UUID) -> None:
    """Give the lease back, so that a retry need not wait for its end."""
    await conn.execute("UPDATE payments SET opening_until = NULL WHERE id = $1", payment_id)


async def update_opened(conn: Connection, *, payment_id: UUID, provider_payment_id: str, payment_url: str) -> bool:
    """Keep what the provider made of a payment; False when it is already another payment of the provider's."""
    status = await conn.execute(
        """
        UPDATE payments
        SET provider_payment_id = $2, payment_url = $3, opening_until = NULL
        WHERE id = $1 AND (provider_payment_id IS NULL OR provider_payment_id = $2)
        """,
        payment_id,
        provider_payment_id,
        payment_url,
    )
    return status == "UPDATE 1"


async def update_provider_payment_id(conn: Connection, *, payment_id: UUID, provider_payment_id: str) -> None:
    """Keep the provider's id of a payment whose word came before the answer to our own request."""
    query = "UPDATE payments SET provider_payment_id = $2 WHERE id = $1 AND provider_payment_id IS NULL"
    await conn.execute(query, payment_id, provider_payment_id)


async def update_status(
    conn: Connection, *, payment_id: UUID, status: PaymentStatus, ledger_transaction_id: UUID | None = None
) -> None:
    """End a payment; success names the ledger transaction that credited it."""
    query = "UPDATE payments SET status = $2, ledger_transaction_id = $3 WHERE id = $1"
    await conn.execute(query, payment_id, status.value, ledger_transaction_id)


async def claim_due_payment(
    conn: Connection, *, provider: PaymentProviderName, now: datetime, next_check_at: datetime
) -> Payment | None:
    """Take the pending payment whose check is most overdue, and put its next check off. Skips those being changed."""
    row = await conn.fetchrow(
        f"""
        UPDATE payments
        SET next_check_at = GREATEST($3, $2 + LEAST($2 - created_at, INTERVAL '1 hour'))
        WHERE id = (
            SELECT id
            FROM payments
            WHERE provider = $1 AND status = 'pending' AND next_check_at <= $2
            ORDER BY next_check_at
            LIMIT 1
            FOR NO KEY UPDATE SKIP LOCKED
        )
        RETURNING {_COLUMNS}
        """,  # noqa: S608  a constant of this file
        provider.value,
        now,
        next_check_at,
    )
    return _payment(row)


def _payment(row: asyncpg.Record | None) -> Payment | None:
    if row is None:
        return None
    return Payment(
        **{
            **row,
            "provider": PaymentProviderName(row["provider"]),
            "status": PaymentStatus(row["status"]),
        }
    )
