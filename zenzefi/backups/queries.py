"""The fence: one row that names the run which may publish."""

from datetime import datetime
from uuid import UUID

from zenzefi.infra.db import Connection


async def update_fence(conn: Connection, *, run_id: UUID, now: datetime) -> None:
    """Let this run publish, and no earlier one."""
    await conn.execute("UPDATE backup_fence SET run_id = $1, taken_at = $2", run_id, now)


async def lock_fence(conn: Connection) -> UUID | None:
    """The run that may publish; no other run begins before the end of the transaction."""
    row = await conn.fetchrow("SELECT run_id FROM backup_fence FOR UPDATE")
    return row["run_id"] if row else None
