"""The nightly verification of the audit log: what it finds is kept for the metrics, and each fault is logged."""

from typing import Final

import structlog

from zenzefi.audit import sealing
from zenzefi.audit.models import AuditReport
from zenzefi.context import Context
from zenzefi.errors import JsonObject
from zenzefi.infra import facts

FACT: Final = "audit"

log = structlog.get_logger(__name__)


async def inspect_audit_log(ctx: Context) -> str:
    """Verify the chain, keep what was found and log each fault; a line that says what came of it.

    Takes no locks and changes nothing of the log.
    """
    begun_at = ctx.now()
    report = await sealing.verify_audit_log(ctx)
    found: JsonObject = {"faults": len(report.faults), "rows": report.sealed_rows}
    async with ctx.connection() as conn:
        await facts.put(conn, name=FACT, document=found, at=begun_at)
    for fault in report.faults:
        log.error("audit_fault", kind=fault.kind.value, subject=fault.subject, detail=fault.detail)
    return summary_of(report)


def summary_of(report: AuditReport) -> str:
    """One line on a verification, such as ``sound: 12 rows sealed, 0 wait for a seal, head 3:<hash>``."""
    verdict = "sound" if report.is_sound else f"NOT SOUND, {len(report.faults)} faults"
    return f"{verdict}: {report.sealed_rows} rows sealed, {report.waiting_rows} wait for a seal, head {head_of(report)}"


def head_of(report: AuditReport) -> str:
    """The newest seal as ``--anchor`` takes it."""
    return "-" if report.head is None else f"{report.head.seal_no}:{report.head.seal_hash.hex()}"
