"""SQL of the audit log."""

from datetime import datetime
from uuid import UUID

import asyncpg

from zenzefi.audit.models import Actor, ActorKind, AuditEntry
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


async def select_entries(
    conn: Connection,
    *,
    user_id: UUID | None,
    action: str | None,
    resource_type: str | None,
    before: UUID,
    limit: int,
) -> list[AuditEntry]:
    """The newest rows with an id below `before`, of one actor, one action or one type of resource where given."""
    filters = {"actor_user_id": user_id, "action": action, "resource_type": resource_type}
    # Put together by what is asked for: each of them has an index in this order.
    conditions, arguments = ["id < $1"], list[object]([before, limit])
    for column, value in filters.items():
        if value is not None:
            arguments.append(value)
            conditions.append(f"{column} = ${len(arguments)}")
    rows = await conn.fetch(
        """
        SELECT
            id, at, actor_kind, actor_user_id, action, resource_type, resource_id, before, after,
            ip, user_agent, request_id
        FROM audit_log WHERE
        """
        + " AND ".join(conditions)
        + " ORDER BY id DESC LIMIT $2",
        *arguments,
    )
    return [_entry(row) for row in rows]


def _entry(row: asyncpg.Record) -> AuditEntry:
    members = dict(row)
    address = members.pop("ip")
    kind = ActorKind(members.pop("actor_kind"))
    # asyncpg reads an inet with its prefix length as an interface; an address is what was written.
    return AuditEntry(**members, actor_kind=kind, ip=getattr(address, "ip", address))
