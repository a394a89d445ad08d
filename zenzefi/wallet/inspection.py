"""The nightly look at the whole ledger: what it finds goes to the log and, as a fact, to the metrics."""

import structlog

from zenzefi.context import Context
from zenzefi.errors import JsonObject
from zenzefi.infra import facts
from zenzefi.wallet import service
from zenzefi.wallet.models import LedgerReport

FACT = "ledger"

log = structlog.get_logger(__name__)


async def inspect_ledger(ctx: Context) -> str:
    """Verify the ledger, keep what was found and log each fault; a line that says what came of it.

    Takes no locks and changes nothing of the ledger.
    """
    begun_at = ctx.now()
    report = await service.verify(ctx)
    found: JsonObject = {"imbalance": f"{report.totals.imbalance:.2f}", "faults": len(report.faults)}
    async with ctx.connection() as conn:
        await facts.put(conn, name=FACT, document=found, at=begun_at)
    for fault in report.faults:
        log.error("ledger_fault", rule=fault.rule.value, subject=str(fault.subject), detail=fault.detail)
    return summary_of(report)


def summary_of(report: LedgerReport) -> str:
    """One line on a verification, such as ``sound: 2 wallets, 6 transactions, 12 postings, imbalance 0.00``."""
    totals = report.totals
    verdict = "sound" if report.is_sound else f"NOT SOUND, {len(report.faults)} faults"
    return (
        f"{verdict}: {totals.wallets} wallets, {totals.transactions} transactions, {totals.postings} postings, "
        f"imbalance {totals.imbalance:.2f}"
    )
