"""Which metrics a movement of money counts in."""

from typing import Final

from zenzefi.infra.business_instruments import (
    ADJUSTMENTS_ZNC,
    BONUSES_ZNC,
    DEPOSITS,
    DEPOSITS_ZNC,
    PURCHASES,
    PURCHASES_ZNC,
    REFUNDS,
    REFUNDS_ZNC,
)
from zenzefi.infra.db import Connection, after_commit
from zenzefi.infra.metrics import Counter
from zenzefi.wallet.models import Movement, TransactionType

_CREDITED_ZNC: Final = {
    TransactionType.DEPOSIT: DEPOSITS_ZNC.labels(),
    TransactionType.REFUND: REFUNDS_ZNC.labels(),
    TransactionType.REFERRAL_BONUS: BONUSES_ZNC.labels(),
    TransactionType.ADJUSTMENT: ADJUSTMENTS_ZNC.labels("in"),
}
_DEBITED_ZNC: Final = {
    TransactionType.PURCHASE: PURCHASES_ZNC.labels(),
    TransactionType.ADJUSTMENT: ADJUSTMENTS_ZNC.labels("out"),
}
_TIMES: Final = {
    TransactionType.DEPOSIT: DEPOSITS.labels(),
    TransactionType.REFUND: REFUNDS.labels(),
    TransactionType.PURCHASE: PURCHASES.labels(),
}


def count_credit(conn: Connection, movement: Movement) -> None:
    """Count what a wallet received, once it is committed."""
    _count(conn, movement, _CREDITED_ZNC.get(movement.transaction_type))


def count_debit(conn: Connection, movement: Movement) -> None:
    """Count what a wallet gave, once it is committed."""
    _count(conn, movement, _DEBITED_ZNC.get(movement.transaction_type))


def _count(conn: Connection, movement: Movement, znc: Counter | None) -> None:
    if znc is None:  # no such movement is made by any use case
        return
    after_commit(conn, znc.inc, float(movement.amount))
    times = _TIMES.get(movement.transaction_type)
    if times is not None:
        after_commit(conn, times.inc)
