"""The nightly look at the ledger leaves what it found where every worker's metrics take it from."""

from tests.support.people import Person
from workers.jobs import wallet
from zenzefi.context import Context
from zenzefi.infra import facts


async def test_a_sound_ledger_is_told_and_kept(ctx: Context, person: Person) -> None:
    await person.top_up("5.00")
    begun_at = ctx.now()
    assert (await wallet.inspect_ledger(ctx)).startswith("sound: ")
    async with ctx.connection() as conn:
        at, found = (await facts.read_all(conn))["ledger"]
    assert found == {"imbalance": "0.00", "faults": 0}
    assert begun_at <= at <= ctx.now()
