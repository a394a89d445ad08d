"""Single movements of money: what they change, what refuses them, and how they meet each other."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.support.serving import ROOT
from tests.wallet.ledger import credit, credit_step, debit, debit_step, insert_user, until_a_lock_is_waited_for
from zenzefi.context import Context
from zenzefi.wallet import service
from zenzefi.wallet.errors import InsufficientFunds, InvalidAmount, WalletFull, WalletOwnerNotFound
from zenzefi.wallet.models import MAX_BALANCE, TransactionType

FIVE = Decimal("5.00")


async def test_first_credit_opens_the_wallet(ctx: Context) -> None:
    user_id = await insert_user(ctx)
    assert await service.get_balance(ctx, user_id=user_id) == Decimal("0.00")
    entry = await credit(ctx, user_id, FIVE)
    assert (entry.amount, entry.balance_after, entry.entry_no) == (FIVE, FIVE, 1)
    assert await service.get_balance(ctx, user_id=user_id) == FIVE
    assert await service.list_transactions(ctx, user_id=user_id, limit=10) == ([entry], None)


async def test_many_first_credits_at_once_open_one_wallet(ctx: Context) -> None:
    user_id = await insert_user(ctx)
    entries = await asyncio.gather(*(credit(ctx, user_id, FIVE) for _ in range(30)))
    assert sorted(entry.entry_no for entry in entries) == list(range(1, 31))
    assert await service.get_balance(ctx, user_id=user_id) == 30 * FIVE


@pytest.mark.parametrize("opened", [True, False])
async def test_debit_beyond_the_balance_names_both_amounts(ctx: Context, opened: bool) -> None:
    user_id = await insert_user(ctx)
    if opened:
        await credit(ctx, user_id, FIVE)
    with pytest.raises(InsufficientFunds) as refusal:
        await debit(ctx, user_id, Decimal("5.01"))
    available = "5.00" if opened else "0.00"
    assert refusal.value.detail == f"5.01 ZNC are needed, {available} ZNC are available. Top up the wallet first."
    assert refusal.value.extra == {"needed": "5.01", "available": available}


async def test_refused_debit_leaves_its_transaction_usable(ctx: Context) -> None:
    user_id = await insert_user(ctx)
    async with ctx.transaction() as conn:
        with pytest.raises(InsufficientFunds):
            await debit_step(ctx, conn, user_id, FIVE)
        await credit_step(ctx, conn, user_id, FIVE)
        entry = await debit_step(ctx, conn, user_id, FIVE)
    assert (entry.balance_after, entry.entry_no) == (Decimal("0.00"), 2)


async def test_debit_sees_a_credit_that_commits_while_it_runs(ctx: Context) -> None:
    user_id = await insert_user(ctx)
    await credit(ctx, user_id, Decimal("1.00"))
    async with ctx.transaction() as conn:
        await credit_step(ctx, conn, user_id, FIVE)
        running = asyncio.create_task(debit(ctx, user_id, FIVE))
        await until_a_lock_is_waited_for(ctx)
    assert (await running).balance_after == Decimal("1.00")


async def test_wallet_takes_its_bound_and_not_a_cent_more(ctx: Context) -> None:
    user_id = await insert_user(ctx)
    await credit(ctx, user_id, MAX_BALANCE)
    with pytest.raises(WalletFull):
        await credit(ctx, user_id, Decimal("0.01"))
    assert (await debit(ctx, user_id, MAX_BALANCE)).balance_after == Decimal("0.00")


@pytest.mark.parametrize(
    "amount", ["0", "-1", "0.001", "1.005", "NaN", "sNaN", "Infinity", "-Infinity", "1e12", "1e400"]
)
async def test_amounts_that_are_no_money_are_refused(ctx: Context, amount: str) -> None:
    user_id = await insert_user(ctx)
    with pytest.raises(InvalidAmount):
        await credit(ctx, user_id, Decimal(amount))
    with pytest.raises(InvalidAmount):
        await debit(ctx, user_id, Decimal(amount))


@pytest.mark.parametrize("amount", [1.5, 1, True, "1.50"])
async def test_only_decimal_is_money(ctx: Context, amount: Any) -> None:
    user_id = await insert_user(ctx)
    with pytest.raises(TypeError, match="money is a Decimal"):
        await credit(ctx, user_id, amount)


async def test_nobody_has_no_wallet(ctx: Context) -> None:
    with pytest.raises(WalletOwnerNotFound):
        await credit(ctx, ctx.new_id(), FIVE)


async def test_history_is_filtered_by_type(ctx: Context) -> None:
    user_id = await insert_user(ctx)
    deposit = await credit(ctx, user_id, FIVE)
    purchase = await debit(ctx, user_id, FIVE)
    for transaction_type, expected in [
        (TransactionType.DEPOSIT, [deposit]),
        (TransactionType.PURCHASE, [purchase]),
        (TransactionType.REFUND, []),
    ]:
        listed = await service.list_transactions(ctx, user_id=user_id, transaction_type=transaction_type, limit=10)
        assert listed == (expected, None)


@pytest.mark.parametrize("funds", [1, 37])
async def test_parallel_debits_of_several_processes_never_overdraw(
    ctx: Context, env: dict[str, str], funds: int
) -> None:
    user_id = await insert_user(ctx)
    await credit(ctx, user_id, funds * FIVE)
    outcomes = await _spend_in_processes(env, user_id, amount=FIVE, processes=4, debits_each=25)
    assert [outcome["others"] for outcome in outcomes] == [[]] * 4
    assert sum(outcome["made"] for outcome in outcomes) == funds
    assert sum(outcome["refused"] for outcome in outcomes) == 100 - funds
    assert await service.get_balance(ctx, user_id=user_id) == Decimal("0.00")
    entries, _ = await service.list_transactions(ctx, user_id=user_id, limit=100)
    assert [entry.balance_after for entry in entries] == [FIVE * place for place in range(funds + 1)]


async def _spend_in_processes(
    env: dict[str, str], user_id: UUID, *, amount: Decimal, processes: int, debits_each: int
) -> list[dict[str, Any]]:
    command = (sys.executable, "-m", "tests.wallet.spender", str(user_id), str(amount), str(debits_each))
    spenders = [
        await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, cwd=ROOT, env={**os.environ, **env})
        for _ in range(processes)
    ]
    async with asyncio.timeout(60):
        for spender in spenders:
            assert spender.stdout is not None
            assert await spender.stdout.readline() == b"ready\n"
        outputs = await asyncio.gather(*(spender.communicate(b"go\n") for spender in spenders))
    return [json.loads(output) for output, _ in outputs]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_transactions SET description = 'x'",
        "UPDATE ledger_postings SET amount = 1",
        "UPDATE ledger_accounts SET kind = 'system'",
        "UPDATE ledger_accounts SET user_id = user_id",
        "UPDATE audit_log SET action = 'x'",
        "DELETE FROM ledger_transactions",
        "DELETE FROM ledger_postings",
        "DELETE FROM ledger_accounts",
        "DELETE FROM audit_log",
        "DELETE FROM ledger_postings_default",
        "UPDATE ledger_transactions_default SET description = 'x'",
        "DELETE FROM audit_log_default",
        "TRUNCATE ledger_postings",
        "TRUNCATE audit_log",
        "ALTER TABLE ledger_postings DISABLE TRIGGER ALL",
        "ALTER TABLE ledger_accounts DROP CONSTRAINT ledger_accounts_balance_not_negative",
        "DROP TABLE audit_log",
        "SET session_replication_role = replica",
    ],
)
async def test_application_cannot_rewrite_the_past(ctx: Context, statement: str) -> None:
    async with ctx.connection() as conn:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(statement)


async def test_balance_below_zero_is_refused_by_the_database(ctx: Context) -> None:
    user_id = await insert_user(ctx)
    await credit(ctx, user_id, FIVE)
    async with ctx.connection() as conn:
        with pytest.raises(asyncpg.CheckViolationError) as violation:
            await conn.execute("UPDATE ledger_accounts SET balance = -0.01 WHERE user_id = $1", user_id)
    assert violation.value.constraint_name == "ledger_accounts_balance_not_negative"


async def test_one_sided_transaction_is_refused_by_the_database(ctx: Context) -> None:
    user_id = await insert_user(ctx)
    await credit(ctx, user_id, FIVE)
    with pytest.raises(asyncpg.CheckViolationError) as violation:
        async with ctx.transaction() as conn:
            await conn.execute(
                """
                WITH made AS (
                    INSERT INTO ledger_transactions (id, transaction_type, description, created_at)
                    VALUES ($1, 'deposit', 'one-sided', $3)
                )
                INSERT INTO ledger_postings (transaction_id, account_id, transaction_type, amount)
                SELECT $1, id, 'deposit', 5 FROM ledger_accounts WHERE user_id = $2
                """,
                ctx.new_id(),
                user_id,
                ctx.now(),
            )
    assert violation.value.constraint_name == "ledger_postings_sum_to_zero"
