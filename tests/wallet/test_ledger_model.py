"""The ledger against a model of it: thousands of random movements, in turn and at once, with no difference allowed."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.wallet.ledger import credit, credit_step, debit, debit_step, insert_user
from zenzefi.context import Context, open_context
from zenzefi.settings import Settings
from zenzefi.wallet import service
from zenzefi.wallet.errors import InsufficientFunds, InvalidAmount, WalletFull
from zenzefi.wallet.models import MAX_BALANCE, LedgerEntry, TransactionType

# 10,000 steps in all; in shares, so that pytest-xdist has something to share out.
SHARES = 4
STEPS = 10_000 // SHARES
STEPS_PER_EXAMPLE = 50
WALLETS = 3

T = TypeVar("T")

wallets = st.integers(0, WALLETS - 1)
# Small against each other, so that about half of the debits are refused; places=2 makes cents matter.
amounts = st.decimals(min_value=Decimal("0.01"), max_value=Decimal("50.00"), places=2)
credit_types = st.sampled_from([TransactionType.DEPOSIT, TransactionType.REFUND, TransactionType.REFERRAL_BONUS])


class GivenUp(Exception):
    """Ends a transaction half way."""


@dataclass
class Bench:
    """A context with a loop of its own: a state machine is synchronous and outlives many examples."""

    runner: asyncio.Runner
    ctx: Context
    checks: int = 0

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)


@dataclass
class ModelWallet:
    """What a wallet must look like."""

    user_id: UUID
    entries: list[LedgerEntry] = field(default_factory=list)

    @property
    def balance(self) -> Decimal:
        return self.entries[-1].balance_after if self.entries else Decimal("0.00")

    def expect(self, entry: LedgerEntry, amount: Decimal) -> None:
        """Check that an entry is the one that follows, and keep it."""
        assert (entry.amount, entry.entry_no) == (amount, len(self.entries) + 1)
        assert entry.balance_after == self.balance + amount >= 0
        self.entries.append(entry)


class LedgerMachine(RuleBasedStateMachine):
    """Moves money and compares; `bench` is set by a subclass."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.wallets = [ModelWallet(self.bench.run(insert_user(self.bench.ctx))) for _ in range(WALLETS)]

    @rule(index=wallets, amount=amounts, transaction_type=credit_types)
    def credit(self, index: int, amount: Decimal, transaction_type: TransactionType) -> None:
        wallet = self.wallets[index]
        entry = self.bench.run(credit(self.bench.ctx, wallet.user_id, amount, transaction_type))
        wallet.expect(entry, amount)

    @rule(index=wallets, amount=amounts)
    def debit(self, index: int, amount: Decimal) -> None:
        wallet = self.wallets[index]
        if amount <= wallet.balance:
            wallet.expect(self.bench.run(debit(self.bench.ctx, wallet.user_id, amount)), -amount)
        else:
            with pytest.raises(InsufficientFunds) as refusal:
                self.bench.run(debit(self.bench.ctx, wallet.user_id, amount))
            assert refusal.value.extra == {"needed": f"{amount:.2f}", "available": f"{wallet.balance:.2f}"}

    @rule(index=wallets)
    def debit_everything(self, index: int) -> None:
        wallet = self.wallets[index]
        if wallet.balance:
            amount = wallet.balance
            wallet.expect(self.bench.run(debit(self.bench.ctx, wallet.user_id, amount)), -amount)

    @rule(index=wallets)
    def overfill(self, index: int) -> None:
        wallet = self.wallets[index]
        if wallet.balance:
            with pytest.raises(WalletFull):
                self.bench.run(credit(self.bench.ctx, wallet.user_id, MAX_BALANCE, TransactionType.DEPOSIT))

    @rule(index=wallets, amount=st.sampled_from(["0", "-1", "0.001", "NaN", "sNaN", "Infinity", "1e400", "1e-400"]))
    def move_no_amount(self, index: int, amount: str) -> None:
        for move in (
            debit(self.bench.ctx, self.wallets[index].user_id, Decimal(amount)),
            credit(self.bench.ctx, self.wallets[index].user_id, Decimal(amount), TransactionType.DEPOSIT),
        ):
            with pytest.raises(InvalidAmount):
                self.bench.run(move)

    @rule(index=wallets, amount=amounts)
    def give_up_half_way(self, index: int, amount: Decimal) -> None:
        with pytest.raises(GivenUp):
            self.bench.run(self._credit_and_give_up(self.wallets[index].user_id, amount))

    async def _credit_and_give_up(self, user_id: UUID, amount: Decimal) -> None:
        async with self.bench.ctx.transaction() as conn:
            await credit_step(self.bench.ctx, conn, user_id, amount, TransactionType.DEPOSIT)
            await debit_step(self.bench.ctx, conn, user_id, amount)
            raise GivenUp

    @rule(moves=st.lists(st.tuples(wallets, amounts, st.booleans()), min_size=2, max_size=8))
    def move_at_once(self, moves: list[tuple[int, Decimal, bool]]) -> None:
        outcomes = self.bench.run(self._move_at_once(moves))
        for index, wallet in enumerate(self.wallets):
            mine = [(move, outcome) for move, outcome in zip(moves, outcomes, strict=True) if move[0] == index]
            seen = {wallet.balance}
            done = [(outcome, move) for move, outcome in mine if isinstance(outcome, LedgerEntry)]
            for entry, (_, amount, is_credit) in sorted(done, key=lambda pair: pair[0].entry_no):
                wallet.expect(entry, amount if is_credit else -amount)
                seen.add(wallet.balance)
            for (_, amount, is_credit), refusal in mine:
                if not isinstance(refusal, LedgerEntry):
                    # A refusal is right when it names a balance that the wallet had in that time, and it is too low.
                    assert isinstance(refusal, InsufficientFunds)
                    assert not is_credit
                    available = Decimal(str(refusal.extra["available"]))
                    assert available in seen
                    assert available < amount

    async def _move_at_once(self, moves: list[tuple[int, Decimal, bool]]) -> list[LedgerEntry | BaseException]:
        return await asyncio.gather(
            *(
                credit(self.bench.ctx, self.wallets[index].user_id, amount, TransactionType.DEPOSIT)
                if is_credit
                else debit(self.bench.ctx, self.wallets[index].user_id, amount)
                for index, amount, is_credit in moves
            ),
            return_exceptions=True,
        )

    @rule(index=wallets, limit=st.integers(1, 30), transaction_type=st.sampled_from([None, *TransactionType]))
    def page_through_history(self, index: int, limit: int, transaction_type: TransactionType | None) -> None:
        wallet = self.wallets[index]
        listed = self.bench.run(self._page_through_history(wallet.user_id, limit, transaction_type))
        expected = [entry for entry in wallet.entries if transaction_type in (None, entry.transaction_type)]
        assert listed == expected[::-1]

    async def _page_through_history(
        self, user_id: UUID, limit: int, transaction_type: TransactionType | None
    ) -> list[LedgerEntry]:
        listed: list[LedgerEntry] = []
        before: int | None = None
        while True:
            page, before = await service.list_transactions(
                self.bench.ctx,
                user_id=user_id,
                transaction_type=transaction_type,
                before_entry_no=before,
                limit=limit,
            )
            listed += page
            assert len(page) == limit or before is None
            if before is None:
                return listed

    @invariant()
    def balances_are_as_in_the_model(self) -> None:
        self.bench.checks += 1
        balances = self.bench.run(self._read_balances())
        assert balances == [wallet.balance for wallet in self.wallets]

    async def _read_balances(self) -> list[Decimal]:
        return [await service.get_balance(self.bench.ctx, user_id=wallet.user_id) for wallet in self.wallets]

    def teardown(self) -> None:
        for wallet in self.wallets:
            listed = self.bench.run(self._page_through_history(wallet.user_id, 100, None))
            assert listed == wallet.entries[::-1]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("share", range(SHARES))
def test_ledger_never_differs_from_its_model(settings: Settings, share: int) -> None:
    with asyncio.Runner() as runner:
        opened = open_context(settings)
        ctx = runner.run(opened.__aenter__())
        try:
            bench = Bench(runner, ctx)
            while bench.checks < STEPS:  # an example may be shorter than it might
                _run_examples(bench, 1 + (STEPS - bench.checks) // STEPS_PER_EXAMPLE)
            report = runner.run(service.verify(ctx))
        finally:
            runner.run(opened.__aexit__(None, None, None))
    assert report.is_sound, report
    # Each example leaves some rules out: a third as many as steps have been seen, and four fifths.
    assert report.totals.transactions > STEPS // 20


def _run_examples(bench: Bench, examples: int) -> None:
    run_state_machine_as_test(
        type("Machine", (LedgerMachine,), {"bench": bench}),
        settings=hypothesis_settings(
            max_examples=examples,
            stateful_step_count=STEPS_PER_EXAMPLE,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
