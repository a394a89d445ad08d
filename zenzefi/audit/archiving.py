"""Moving old months of the audit log to S3: stored, read back and recorded, and only then dropped.

An object has one line for each row: exactly the text whose SHA-256 the seals keep (``audit_sealed_rows``). They stay in
the database, so anybody can compare an archive with the chain; a month that does not fit its seals is not archived.
No object is ever replaced: each attempt has a key of its own. A run may end anywhere, and two may run at once: what is
recorded and not dropped is read back again by the next run, and what is not recorded is archived anew.
"""

import hashlib
from datetime import date, timedelta
from typing import Any, Final

import asyncpg
import structlog

from zenzefi.audit import archive_queries, archive_store, service
from zenzefi.audit.models import Actor, Archive
from zenzefi.context import Context
from zenzefi.infra.storage import StorageError

# Below that the database refuses, whatever the settings say.
LEAST_KEEP_DAYS: Final = 30
ROWS_PER_PAGE: Final = 1_000

_PREFIX: Final = "audit/"
_STALE: Final = timedelta(days=1)  # no run lives for that long

log = structlog.get_logger(__name__)


class MonthNotSound(Exception):
    """The month does not fit its seals"""


async def archive_audit_log(ctx: Context, *, part_size: int = archive_store.PART_SIZE) -> int:
    """Archive and drop each month that ended longer ago than the log is kept for; the number of dropped ones.

    A month that does not fit its seals stays as it is, for `zenzefi audit verify` to tell what is wrong with it.

    Raises:
        StorageError: the object store refuses or cannot be reached; what was not read back was not dropped.
    """
    keep = timedelta(days=max(ctx.settings.retention.audit_days, LEAST_KEEP_DAYS))
    async with ctx.connection() as conn:
        months = await archive_queries.select_months(conn, until=ctx.now() - keep)
    if not months:
        return 0
    if not ctx.storage.is_configured:
        log.warning("audit_log_not_archived", months=len(months), reason="S3_BUCKET is not set: nothing is dropped")
        return 0
    dropped, refused = 0, dict[date, str]()
    async with ctx.storage.open_client() as client:
        await archive_store.sweep(client, bucket=ctx.storage.bucket, prefix=_PREFIX, begun_before=ctx.now() - _STALE)
        for month in months:
            try:
                dropped += await _archive_month(ctx, client, month, part_size)
            except (MonthNotSound, asyncpg.ObjectNotInPrerequisiteStateError) as error:
                refused[month] = str(error)
    for month, reason in refused.items():
        log.error("audit_month_not_archived", month=f"{month:%Y-%m}", reason=reason)
    return dropped


async def _archive_month(ctx: Context, client: Any, month: date, part_size: int) -> bool:
    async with ctx.connection() as conn:
        archive = await archive_queries.find_archive(conn, month=month)
    if archive is None or not await _is_stored(ctx, client, archive):
        archive = await _store(ctx, client, month, part_size)
    async with ctx.transaction() as conn:
        dropped = await archive_queries.drop_month(conn, month=month)
    if dropped:
        log.info("audit_month_archived", month=f"{month:%Y-%m}", key=archive.object_key, rows=archive.row_count)
    return dropped


async def _store(ctx: Context, client: Any, month: date, part_size: int) -> Archive:
    archive_id = ctx.new_id()
    key = f"{_PREFIX}{month:%Y-%m}/{archive_id}.jsonl.gz"
    upload = archive_store.ArchiveUpload(client, bucket=ctx.storage.bucket, key=key, part_size=part_size)
    await upload.start()
    try:
        row_count = await _write_rows(ctx, upload, month)
        await upload.complete()
    except BaseException:
        await upload.abort()
        raise
    archive = Archive(
        id=archive_id, month=month, object_key=key, row_count=row_count, size_bytes=upload.size, sha256=upload.sha256
    )
    if not await _is_stored(ctx, client, archive):
        raise StorageError(f"{ctx.storage.address} took {key} and does not give back what was sent.")
    await _record(ctx, archive)
    return archive


async def _write_rows(ctx: Context, upload: archive_store.ArchiveUpload, month: date) -> int:
    """Send a month page by page, each in a query of its own: no transaction is open for as long as that takes."""
    count, last = 0, None
    while True:
        async with ctx.connection() as conn:
            page = await archive_queries.select_rows(conn, month=month, after=last, limit=ROWS_PER_PAGE)
        lines = [row.text.encode() for row in page]
        for row, line in zip(page, lines, strict=True):
            if row.row_hash != hashlib.sha256(line).digest():
                raise MonthNotSound(f"row {row.entry_id} is not what was sealed, or has no seal")
        await upload.write(b"".join(line + b"\n" for line in lines))
        count += len(page)
        if len(page) < ROWS_PER_PAGE:
            break
        last = page[-1].entry_id
    async with ctx.connection() as conn:
        seals = await archive_queries.count_seals(conn, month=month)
    if seals != count:
        raise MonthNotSound(f"there are {count} rows, and {seals} were sealed")
    return count


async def _record(ctx: Context, archive: Archive) -> None:
    """Note the object, in the log itself, too: so the chain covers its digest."""
    async with ctx.transaction() as conn:
        now = ctx.now()
        await archive_queries.insert_archive(conn, archive, now=now)
        await service.record(
            conn,
            ctx=ctx,
            actor=Actor.system(),
            action="audit.archive",
            resource_type="audit",
            resource_id=f"{archive.month:%Y-%m}",
            after={"key": archive.object_key, "rows": archive.row_count, "sha256": archive.sha256.hex()},
        )


async def _is_stored(ctx: Context, client: Any, archive: Archive) -> bool:
    return await archive_store.is_stored(
        client, bucket=ctx.storage.bucket, key=archive.object_key, size=archive.size_bytes, sha256=archive.sha256
    )
