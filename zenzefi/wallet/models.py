"""The ledger's words: accounts, types of transaction, entries of a wallet, and what a verification found."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

CURRENCY = "ZNC"
CENT = Decimal("0.01")
# What numeric(14, 2) holds; a wallet refuses a credit beyond it instead of failing inside the database.
MAX_BALANCE = Decimal("999999999999.99")


class SystemAccount(StrEnum):
    """The other side of a wallet's entry; the value is the account's code in the ledger."""

    DEPOSITS = "deposits"
    REVENUE = "revenue"
    ADJUSTMENTS = "adjustments"
    BONUSES = "bonuses"


class TransactionType(StrEnum):
    """Why money moved."""

    DEPOSIT = "deposit"
    PURCHASE = "purchase"
    REFUND = "refund"
    REFERRAL_BONUS = "referral_bonus"
    ADJUSTMENT = "adjustment"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One transaction as its wallet sees it: `amount` is positive when the wallet received it.

    `entry_no` counts the wallet's entries from 1 without a gap and is the history's order.
    """

    transaction_id: UUID
    transaction_type: TransactionType
    amount: Decimal
    balance_after: Decimal
    entry_no: int
    description: str
    payment_id: UUID | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """Money that is to move between a user's wallet and a system account; `amount` is above 0 either way."""

    transaction_id: UUID
    user_id: UUID
    counterpart: SystemAccount
    transaction_type: TransactionType
    amount: Decimal
    description: str
    payment_id: UUID | None
    now: datetime


class LedgerRule(StrEnum):
    """What holds in every committed state of the ledger."""

    POSTINGS_SUM_TO_ZERO = "postings_sum_to_zero"
    TRANSACTIONS_HAVE_TWO_SIDES = "transactions_have_two_sides"
    POSTINGS_HAVE_A_TRANSACTION = "postings_have_a_transaction"
    WALLETS_EQUAL_THEIR_POSTINGS = "wallets_equal_their_postings"
    WALLETS_ARE_NOT_NEGATIVE = "wallets_are_not_negative"
    ENTRIES_ARE_GAPLESS = "entries_are_gapless"
    PAYMENTS_ARE_CREDITED_ONCE = "payments_are_credited_once"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerFault:
    """One place where a rule does not hold: `subject` is the id of a transaction or of an account."""

    rule: LedgerRule
    subject: UUID
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerTotals:
    """How much a verification has looked at, and the sum of all postings, which is 0."""

    wallets: int
    transactions: int
    postings: int
    imbalance: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerReport:
    """What a verification of the whole ledger found; the faults of one rule are listed up to a bound."""

    totals: LedgerTotals
    faults: tuple[LedgerFault, ...]

    @property
    def is_sound(self) -> bool:
        """Whether every rule holds everywhere."""
        return not self.faults and self.totals.imbalance == 0
