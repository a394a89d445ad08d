"""Sealing the audit log, and verifying it by its seals; the package's docstring says how they work."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from zenzefi.audit import seal_queries
from zenzefi.audit.models import AuditFault, AuditFaultKind, AuditReport, Seal
from zenzefi.context import Context

# From the id of a row to its commit. Statements are cut off after 10 s, and transactions have a few of them.
LATE_BY: Final = timedelta(minutes=10)
ROWS_PER_SEAL: Final = 10_000  # a fraction of a second
MAX_SEALS_PER_RUN: Final = 50  # what is left waits for the next run

log = structlog.get_logger(__name__)


async def seal_audit_log(ctx: Context, *, rows_per_seal: int = ROWS_PER_SEAL) -> int:
    """Seal the rows that were committed since the last run; their number. Of several at once, one does the work."""
    sealed = 0
    for _ in range(MAX_SEALS_PER_RUN):
        seal = await _seal_batch(ctx, rows_per_seal)
        if seal is None:
            break
        sealed += seal.row_count
        log.info("audit_sealed", seal_no=seal.seal_no, seal_hash=seal.seal_hash.hex(), rows=seal.row_count)
        if seal.row_count < rows_per_seal:
            break
    return sealed


async def verify_audit_log(ctx: Context, *, anchor: tuple[int, bytes] | None = None) -> AuditReport:
    """Look for whatever does not fit the seals, on one snapshot; takes no locks and changes nothing.

    `anchor` is the number and the hash of a seal, as somebody noted them before.
    """
    faults: list[AuditFault] = []
    async with ctx.transaction() as conn:
        await seal_queries.begin_snapshot(conn)
        head = await seal_queries.find_newest_seal(conn)
        sealed, waiting = await seal_queries.count_rows(conn)
        for kind in AuditFaultKind:
            if kind is not AuditFaultKind.ANCHOR_LOST:
                faults += await seal_queries.select_faults(conn, kind=kind, waiting_since=_horizon(head))
        if anchor is not None and await seal_queries.find_seal_hash(conn, seal_no=anchor[0]) != anchor[1]:
            detail = "the seal does not have the hash that was noted"
            faults.append(AuditFault(kind=AuditFaultKind.ANCHOR_LOST, subject=str(anchor[0]), detail=detail))
    return AuditReport(head=head, sealed_rows=sealed, waiting_rows=waiting, faults=tuple(faults))


async def _seal_batch(ctx: Context, limit: int) -> Seal | None:
    async with ctx.transaction() as conn:
        if not await seal_queries.try_lock(conn):
            return None
        now = ctx.now()  # before the snapshot of the statements below
        head = await seal_queries.find_newest_seal(conn)
        seal_no = 1 if head is None else head.seal_no + 1
        entry_ids = await seal_queries.insert_sealed_rows(conn, seal_no=seal_no, since=_horizon(head), limit=limit)
        if not entry_ids:
            return None
        # A full batch covers the log up to its last row only, whose id may name an instant that is yet to come.
        covered_until = now if len(entry_ids) < limit else min(_instant_of(entry_ids[-1], now), now)
        return await seal_queries.insert_seal(
            conn,
            seal_no=seal_no,
            previous_hash=None if head is None else head.seal_hash,
            row_count=len(entry_ids),
            covered_until=covered_until,
            now=now,
        )


def _horizon(head: Seal | None) -> UUID:
    """The least id of a row that may still be without a seal."""
    if head is None:
        return UUID(int=0)
    milliseconds = int((head.covered_until - LATE_BY).timestamp() * 1000)
    return UUID(int=max(milliseconds, 0) << 80)  # RFC 9562, section 5.7


def _instant_of(entry_id: UUID, now: datetime) -> datetime:
    """When an id was made; an id that is no UUIDv7 may name any instant."""
    seconds = (entry_id.int >> 80) / 1000
    return now if seconds >= now.timestamp() else datetime.fromtimestamp(seconds, now.tzinfo)
