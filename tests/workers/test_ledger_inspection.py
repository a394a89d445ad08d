"""The nightly look at the ledger leaves what it found in the metrics."""

from tests.support.people import Person
from workers.jobs import wallet
from zenzefi.context import Context
from zenzefi.infra.state_instruments import LEDGER_FAULTS, LEDGER_IMBALANCE


async def test_a_sound_ledger_is_told_and_measured(ctx: Context, person: Person) -> None:
    await person.top_up("5.00")
    LEDGER_FAULTS.labels().set(3)
    LEDGER_IMBALANCE.labels().set(1.0)
    assert (await wallet.inspect_ledger(ctx)).startswith("sound: ")
    for gauge in (LEDGER_FAULTS.labels(), LEDGER_IMBALANCE.labels()):
        assert gauge.cells[gauge.at] == 0
