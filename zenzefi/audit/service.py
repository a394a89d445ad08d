"""Recording what changed."""

from datetime import datetime
from uuid import UUID

from zenzefi.audit import queries
from zenzefi.audit.models import Actor
from zenzefi.errors import JsonObject
from zenzefi.infra.db import Connection

MAX_USER_AGENT_CHARS = 255


async def record(
    conn: Connection,
    *,
    entry_id: UUID,
    now: datetime,
    actor: Actor,
    action: str,
    resource_type: str,
    resource_id: str | UUID,
    before: JsonObject | None = None,
    after: JsonObject | None = None,
) -> None:
    """Append a row to the audit log in the caller's transaction, so that neither stands without the other.

    ``entry_id`` is a fresh ``ctx.new_id()``; ``action`` is ``<resource>.<verb>``, such as ``token.purchase``.
    ``before`` and ``after`` hold no secret: the caller leaves passwords, token strings and hashes out.
    """
    await queries.insert_entry(
        conn,
        entry_id=entry_id,
        at=now,
        actor=actor,
        action=action,
        resource_type=resource_type,
        resource_id=str(resource_id),
        before=before,
        after=after,
    )
