"""The nightly look at the whole ledger: what it finds goes to the log and to the metrics."""

import structlog

from zenzefi.context import Context
from zenzefi.infra.state_instruments import LEDGER_FAULTS, LEDGER_IMBALANCE
from zenzefi.wallet import service
from zenzefi.wallet.models import LedgerReport

log = structlog.get_logger(__name__)


async def inspect_ledger(ctx: Context) -> str:
    """Verify the ledger, set its two gauges and log each fault; a line that says what came of it.

    Takes no locks and changes nothing.
    """
    report = await service.verify(ctx)
    LEDGER_IMBALANCE.labels().set(float(report.totals.imbalance))
    LEDGER_FAULTS.labels().set(len(report.faults))
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
