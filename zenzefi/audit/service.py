"""Recording what changed, and looking it up."""

from typing import Final
from uuid import UUID

from zenzefi.audit import queries
from zenzefi.audit.models import Actor, AuditEntry
from zenzefi.context import Context
from zenzefi.errors import JsonObject
from zenzefi.infra.db import Connection

# Greater than every UUID of version 7: the place before the first page.
_LAST_UUID: Final = UUID("ffffffff-ffff-ffff-ffff-ffffffffffff")


async def record(
    conn: Connection,
    *,
    ctx: Context,
    actor: Actor,
    action: str,
    resource_type: str,
    resource_id: str | UUID,
    before: JsonObject | None = None,
    after: JsonObject | None = None,
) -> UUID:
    """Append a row to the audit log in the caller's transaction, so that neither stands without the other.

    Returns the row's id. ``action`` is ``<resource>.<verb>``, such as ``token.purchase``.
    ``before`` and ``after`` hold no secret: the caller leaves passwords, token strings and hashes out.
    """
    entry_id = ctx.new_id()
    await queries.insert_entry(
        conn,
        entry_id=entry_id,
        at=ctx.now(),
        actor=actor,
        action=action,
        resource_type=resource_type,
        resource_id=str(resource_id),
        before=before,
        after=after,
    )
    return entry_id


async def list_entries(
    ctx: Context,
    *,
    user_id: UUID | None = None,
    action: str | None = None,
    resource_type: str | None = None,
    before: UUID | None = None,
    limit: int,
) -> tuple[list[AuditEntry], UUID | None]:
    """The log, the newest first, from the rows with an id below `before`; and the `before` of the next page, if any.

    `user_id` is who acted.
    """
    rows = limit + 1  # the one more tells whether anything follows
    async with ctx.connection() as conn:
        entries = await queries.select_entries(
            conn,
            user_id=user_id,
            action=action,
            resource_type=resource_type,
            before=before or _LAST_UUID,
            limit=rows,
        )
    page = entries[:limit]
    return page, page[-1].id if len(entries) > limit else None
