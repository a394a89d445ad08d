"""Verification finds what it must: each rule is broken behind the constraints' back, and named."""

from collections.abc import AsyncIterator
from decimal import Decimal

import asyncpg
import pytest

from tests.support.servers import Cluster
from tests.wallet.ledger import credit, debit, insert_user
from tests.wallet.payments import begin, report_of
from zenzefi.audit.models import Actor
from zenzefi.context import Context, open_context
from zenzefi.settings import Settings
from zenzefi.wallet import service
from zenzefi.wallet.models import LedgerRule, LedgerTotals
from zenzefi.wallet.settlement import settle
from zenzefi.wallet.verification import FAULTS_PER_RULE

# What a superuser could do; each names the rules that it breaks. The ledger has two wallets with 3 entries each.
_NEWEST_POSTING = "(SELECT max(transaction_id::text)::uuid FROM ledger_postings)"
_A_WALLET = "(SELECT account_id FROM ledger_postings WHERE entry_no = 3 LIMIT 1)"
CORRUPTIONS = [
    pytest.param(
        "UPDATE ledger_accounts SET balance = balance + 1 WHERE kind = 'wallet'",
        {LedgerRule.WALLETS_EQUAL_THEIR_POSTINGS},
        id="balance",
    ),
    pytest.param(
        f"UPDATE ledger_postings SET amount = amount - 1 WHERE entry_no IS NULL AND transaction_id = {_NEWEST_POSTING}",
        {LedgerRule.POSTINGS_SUM_TO_ZERO},
        id="system-posting",
    ),
    pytest.param(
        "UPDATE ledger_postings SET amount = amount + 1 WHERE entry_no = 2",
        {
            LedgerRule.POSTINGS_SUM_TO_ZERO,
            LedgerRule.WALLETS_EQUAL_THEIR_POSTINGS,
            LedgerRule.ENTRIES_ARE_GAPLESS,
        },
        id="wallet-posting",
    ),
    pytest.param(
        f"DELETE FROM ledger_postings WHERE transaction_id = {_NEWEST_POSTING}",
        {
            LedgerRule.TRANSACTIONS_HAVE_TWO_SIDES,
            LedgerRule.WALLETS_EQUAL_THEIR_POSTINGS,
            LedgerRule.ENTRIES_ARE_GAPLESS,
        },
        id="postings-gone",
    ),
    pytest.param(
        f"DELETE FROM ledger_transactions WHERE id = {_NEWEST_POSTING}",
        {LedgerRule.POSTINGS_HAVE_A_TRANSACTION},
        id="transaction-gone",
    ),
    pytest.param(
        "UPDATE ledger_postings SET transaction_type = 'refund' WHERE transaction_type = 'purchase'",
        {LedgerRule.POSTINGS_HAVE_A_TRANSACTION},
        id="type",
    ),
    pytest.param(
        "UPDATE ledger_postings SET entry_no = 4 WHERE entry_no = 3", {LedgerRule.ENTRIES_ARE_GAPLESS}, id="gap"
    ),
    pytest.param(
        "UPDATE ledger_postings SET entry_no = 1 WHERE entry_no = 2", {LedgerRule.ENTRIES_ARE_GAPLESS}, id="twice"
    ),
    pytest.param(
        "UPDATE ledger_accounts SET entry_count = 4 WHERE kind = 'wallet'",
        {LedgerRule.ENTRIES_ARE_GAPLESS},
        id="count",
    ),
    pytest.param(
        "UPDATE ledger_postings SET balance_after = balance_after + 1 WHERE entry_no = 2",
        {LedgerRule.ENTRIES_ARE_GAPLESS},
        id="balance-after",
    ),
    pytest.param(
        f"""
        ALTER TABLE ledger_accounts DROP CONSTRAINT ledger_accounts_balance_not_negative;
        UPDATE ledger_accounts SET balance = -1 WHERE id = {_A_WALLET}
        """,
        {LedgerRule.WALLETS_ARE_NOT_NEGATIVE, LedgerRule.WALLETS_EQUAL_THEIR_POSTINGS},
        id="negative",
    ),
]


@pytest.fixture
async def own_ctx(env: dict[str, str], cluster: Cluster, fresh_database: str) -> AsyncIterator[Context]:
    """A context on a database of this test's own, whose ledger has two wallets with three entries each."""
    async with open_context(Settings.from_env({**env, **cluster.settings_env(fresh_database)})) as ctx:
        for _ in range(2):
            user_id = await insert_user(ctx)
            entry = await credit(ctx, user_id, Decimal("10.00"))
            await debit(ctx, user_id, entry.balance_after)
            await credit(ctx, user_id, entry.balance_after)
        yield ctx


@pytest.fixture
async def superuser(cluster: Cluster, fresh_database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection that no foreign key and no trigger restrains."""
    connection = await cluster.connect(fresh_database)
    await connection.execute("SET session_replication_role = replica")
    yield connection
    await connection.close()


async def test_sound_ledger_has_no_faults(own_ctx: Context) -> None:
    report = await service.verify(own_ctx)
    assert report.is_sound
    assert report.faults == ()
    assert report.totals == LedgerTotals(wallets=2, transactions=6, postings=12, imbalance=Decimal("0.00"))


@pytest.mark.parametrize(("corruption", "broken"), CORRUPTIONS)
async def test_broken_rule_is_named(
    own_ctx: Context,
    superuser: "asyncpg.Connection[asyncpg.Record]",
    corruption: str,
    broken: set[LedgerRule],
) -> None:
    await superuser.execute(corruption)
    report = await service.verify(own_ctx)
    assert not report.is_sound
    assert {fault.rule for fault in report.faults} == broken


async def test_report_of_a_rule_broken_everywhere_is_bounded(
    own_ctx: Context, superuser: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await superuser.execute(
        """
        INSERT INTO ledger_transactions (id, transaction_type, description, created_at)
        SELECT gen_random_uuid(), 'deposit', 'one that never moved anything', now() FROM generate_series(1, $1::integer)
        """,
        3 * FAULTS_PER_RULE,
    )
    report = await service.verify(own_ctx)
    assert len(report.faults) == FAULTS_PER_RULE


@pytest.mark.parametrize(
    "corruption",
    [
        "UPDATE payments SET status = 'pending', ledger_transaction_id = NULL WHERE id = $1",
        "UPDATE payments SET amount_znc = 10.01 WHERE id = $1",
        "UPDATE payments SET user_id = gen_random_uuid() WHERE id = $1",
        "UPDATE payments SET ledger_transaction_id = gen_random_uuid() WHERE id = $1",
        "DELETE FROM payments WHERE id = $1",
        "UPDATE ledger_transactions SET payment_id = NULL WHERE payment_id = $1",
        "UPDATE ledger_transactions SET payment_id = $1",
    ],
)
async def test_payment_and_credit_that_do_not_belong_together_are_named(
    own_ctx: Context, superuser: "asyncpg.Connection[asyncpg.Record]", corruption: str
) -> None:
    user_id = await insert_user(own_ctx)
    paid, _unpaid = [await begin(own_ctx, user_id) for _ in range(2)]
    await settle(own_ctx, provider=paid.provider, report=report_of(paid.id), actor=Actor.system())
    assert (await service.verify(own_ctx)).is_sound
    await superuser.execute(corruption, paid.id)
    faults = (await service.verify(own_ctx)).faults
    assert [(fault.rule, fault.subject) for fault in faults] == [(LedgerRule.PAYMENTS_ARE_CREDITED_ONCE, paid.id)]
