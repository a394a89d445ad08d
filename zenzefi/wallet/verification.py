"""SQL that looks through the whole ledger for what must not be there; every statement names what it found."""

from zenzefi.infra.db import Connection
from zenzefi.wallet.models import LedgerFault, LedgerRule, LedgerTotals

# A full scan of a large ledger takes minutes; it is for the nightly job and the operator, never for a request.
TIMEOUT_S = 3600.0
# One broken rule may break every row; a report that can be read names some of them.
FAULTS_PER_RULE = 100

# Each selects (subject, detail) of the places where a rule does not hold.
_SELECT_FAULTS = {
    LedgerRule.POSTINGS_SUM_TO_ZERO: """
        SELECT transaction_id AS subject, format('the postings sum to %s', sum(amount)) AS detail
        FROM ledger_postings
        GROUP BY transaction_id
        HAVING sum(amount) <> 0
        LIMIT $1
    """,
    LedgerRule.TRANSACTIONS_HAVE_TWO_SIDES: """
        SELECT
            ledger_transaction.id AS subject,
            format('the transaction has %s postings', count(posting.transaction_id)) AS detail
        FROM ledger_transactions AS ledger_transaction
        LEFT JOIN ledger_postings AS posting ON posting.transaction_id = ledger_transaction.id
        GROUP BY ledger_transaction.id
        HAVING count(posting.transaction_id) < 2
        LIMIT $1
    """,
    LedgerRule.POSTINGS_HAVE_A_TRANSACTION: """
        SELECT posting.transaction_id AS subject, 'no transaction of this id and type' AS detail
        FROM ledger_postings AS posting
        LEFT JOIN ledger_transactions AS ledger_transaction
            ON
                ledger_transaction.id = posting.transaction_id
                AND ledger_transaction.transaction_type = posting.transaction_type
        WHERE ledger_transaction.id IS NULL
        LIMIT $1
    """,
    LedgerRule.WALLETS_EQUAL_THEIR_POSTINGS: """
        SELECT
            wallet.id AS subject,
            format('the balance is %s and the postings sum to %s', wallet.balance, coalesce(account.total, 0))
                AS detail
        FROM ledger_accounts AS wallet
        LEFT JOIN (
            SELECT account_id, sum(amount) AS total FROM ledger_postings GROUP BY account_id
        ) AS account ON account.account_id = wallet.id
        WHERE wallet.kind = 'wallet' AND wallet.balance <> coalesce(account.total, 0)
        LIMIT $1
    """,
    LedgerRule.WALLETS_ARE_NOT_NEGATIVE: """
        SELECT
            wallet.id AS subject,
            format('the balance is %s, and was %s at its lowest', wallet.balance, min(posting.balance_after))
                AS detail
        FROM ledger_accounts AS wallet
        LEFT JOIN ledger_postings AS posting ON posting.account_id = wallet.id
        WHERE wallet.kind = 'wallet'
        GROUP BY wallet.id
        HAVING wallet.balance < 0 OR min(posting.balance_after) < 0
        LIMIT $1
    """,
    LedgerRule.ENTRIES_ARE_GAPLESS: """
        SELECT
            wallet.id AS subject,
            format(
                '%s entries are counted, %s exist, and %s are not where they belong',
                wallet.entry_count, count(walked.place), count(*) FILTER (WHERE walked.is_misplaced)
            ) AS detail
        FROM ledger_accounts AS wallet
        LEFT JOIN (
            SELECT
                account_id,
                row_number() OVER history AS place,
                entry_no IS DISTINCT FROM row_number() OVER history
                OR balance_after IS DISTINCT FROM sum(amount) OVER history AS is_misplaced
            FROM ledger_postings
            WINDOW history AS (PARTITION BY account_id ORDER BY entry_no, transaction_id)
        ) AS walked ON walked.account_id = wallet.id
        WHERE wallet.kind = 'wallet'
        GROUP BY wallet.id
        HAVING wallet.entry_count <> count(walked.place) OR bool_or(walked.is_misplaced)
        LIMIT $1
    """,
    LedgerRule.PAYMENTS_ARE_CREDITED_ONCE: """
        SELECT
            coalesce(payment.id, credit.payment_id) AS subject,
            format('the payment is %s and has %s credits', coalesce(min(payment.status), 'unknown'), count(credit.id))
                AS detail
        FROM payments AS payment
        FULL JOIN (
            SELECT ledger_transaction.id, ledger_transaction.payment_id, posting.amount, wallet.user_id
            FROM ledger_transactions AS ledger_transaction
            LEFT JOIN ledger_postings AS posting
                ON posting.transaction_id = ledger_transaction.id AND posting.entry_no IS NOT NULL
            LEFT JOIN ledger_accounts AS wallet ON wallet.id = posting.account_id
            WHERE ledger_transaction.payment_id IS NOT NULL
        ) AS credit ON credit.payment_id = payment.id
        GROUP BY coalesce(payment.id, credit.payment_id)
        HAVING
            bool_or(payment.status = 'succeeded') IS DISTINCT FROM (count(credit.id) = 1)
            OR count(credit.id) <> count(*) FILTER (
                WHERE
                payment.ledger_transaction_id = credit.id
                AND payment.amount_znc = credit.amount
                AND payment.user_id = credit.user_id
            )
        LIMIT $1
    """,
}


async def begin_snapshot(conn: Connection) -> None:
    """Let the statements of this transaction, which has run none yet, all see one state; it can write nothing."""
    await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


async def select_totals(conn: Connection) -> LedgerTotals:
    """How many of each there are, and the sum of all postings."""
    row = await conn.fetchrow(
        """
        SELECT
            (SELECT count(*) FROM ledger_accounts WHERE kind = 'wallet') AS wallets,
            (SELECT count(*) FROM ledger_transactions) AS transactions,
            count(*) AS postings,
            coalesce(sum(amount), 0.00) AS imbalance
        FROM ledger_postings
        """,
        timeout=TIMEOUT_S,
    )
    assert row is not None, "an aggregate without GROUP BY has one row"
    return LedgerTotals(**row)


async def select_faults(conn: Connection, *, rule: LedgerRule) -> list[LedgerFault]:
    """The first FAULTS_PER_RULE places where a rule does not hold."""
    rows = await conn.fetch(_SELECT_FAULTS[rule], FAULTS_PER_RULE, timeout=TIMEOUT_S)
    return [LedgerFault(rule=rule, subject=row["subject"], detail=row["detail"]) for row in rows]
