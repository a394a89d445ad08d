"""Jobs of the audit slice."""

from zenzefi.audit import archiving, inspection, sealing
from zenzefi.context import Context


async def seal_audit_log(ctx: Context) -> int:
    """Chain what was written to the audit log since the last run."""
    return await sealing.seal_audit_log(ctx)


async def verify_audit_log(ctx: Context) -> str:
    """Compare the audit log with its chain."""
    return await inspection.inspect_audit_log(ctx)


async def archive_audit_log(ctx: Context) -> int:
    """Move old months of the audit log to S3."""
    return await archiving.archive_audit_log(ctx)
