"""Jobs of the audit slice."""

from zenzefi.audit import sealing
from zenzefi.context import Context


async def seal_audit_log(ctx: Context) -> int:
    """Chain what was written to the audit log since the last run."""
    return await sealing.seal_audit_log(ctx)
