"""SQL of the audit log."""

from datetime import datetime
from uuid import UUID

from zenzefi.audit.models import Actor
from zenzefi.errors import JsonObject
from zenzefi.infra.db import Connection


async def insert_entry(
    conn: Connection,
    *,
    entry_id: UUID,
    at: datetime,
    actor: Actor,
    action: str,
    resource_type: str,
    resource_id: str,
    before: JsonObject | None,
    after: JsonObject | None,
) -> None:
    """Append one row."""
    await conn.execute(
        """
        INSERT INTO audit_log (id, at, actor_kind, actor_user_id, action, resource_type, resource_id,
                               before, after, ip, user_agent, request_id)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        """,
        entry_id,
        at,
        actor.kind.value,
        actor.user_id,
        action,
        resource_type,
        resource_id,
        before,
        after,
        actor.ip,
        actor.user_agent,
        actor.request_id,
    )
