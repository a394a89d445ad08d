"""The outbox: a mail is written in the transaction of what it tells of, so that neither stands without the other.

A mail tells of one event, and there is one mail for it at most: the row's key says so, and each event happens once by a
rule of its own that outlives the row (a payment is credited once, a token says when it was announced, a ledger entry
and a password change are made once). `zenzefi.mail.sending` hands the mails in.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from zenzefi.context import Context
from zenzefi.infra.business_instruments import MAILS
from zenzefi.infra.db import Connection, after_commit
from zenzefi.mail import queries
from zenzefi.mail.models import MailKind

# Of one kind to one user within a day. Nobody confirms their address when they register: without a bound somebody could
# have us send a stranger a mail for each of a thousand password changes.
MAX_PER_DAY: Final = 20
# When a mail that could not be handed in is given up: what it tells is old then, and the user has seen it elsewhere.
GIVE_UP_AFTER: Final = timedelta(days=2)
KEEP: Final = timedelta(days=30)
PURGE_BATCH: Final = 1000
COUNT_LIMIT: Final = 10_000  # a look at the outbox costs a bounded time during the longest outage
PURGE_MAX_BATCHES: Final = 200  # of one run; what is left waits for the next

log = structlog.get_logger(__name__)


def is_on(ctx: Context) -> bool:
    """Whether there is a mail server; without one no mail is written."""
    return bool(ctx.settings.mail.host)


async def queue(
    conn: Connection,
    *,
    ctx: Context,
    user_id: UUID,
    kind: MailKind,
    event_id: UUID,
    details: Mapping[str, str],
    useful_until: datetime | None = None,
) -> None:
    """Write a mail to a user in the caller's transaction, unless its event has one; does nothing without a server.

    `details` are what the kind's templates name, and hold no secret.
    """
    if not is_on(ctx):
        return
    now = ctx.now()
    give_up_at = now + GIVE_UP_AFTER
    written = await queries.insert_mail(
        conn,
        mail_id=ctx.new_id(),
        user_id=user_id,
        kind=kind,
        event_id=event_id,
        details=details,
        now=now,
        give_up_at=give_up_at if useful_until is None else min(useful_until, give_up_at),
        counted_from=now - timedelta(days=1),
        limit=MAX_PER_DAY,
    )
    if written:
        after_commit(conn, MAILS.labels(kind.value, "queued").inc)
    else:
        log.info("mail_withheld", kind=kind.value, user_id=str(user_id), event_id=str(event_id))


async def outbox_state(conn: Connection, *, now: datetime) -> tuple[int, datetime | None]:
    """How many mails are due, counted up to COUNT_LIMIT, and since when the oldest of them."""
    return await queries.get_outbox(conn, now=now, limit=COUNT_LIMIT)


async def purge(ctx: Context) -> int:
    """Delete mails after KEEP, sent or not; the count. Bounded, and safe to run twice at the same time."""
    deleted = 0
    for _ in range(PURGE_MAX_BATCHES):
        async with ctx.transaction() as conn:
            batch = await queries.delete_mails(conn, created_before=ctx.now() - KEEP, limit=PURGE_BATCH)
        deleted += batch
        if batch < PURGE_BATCH:
            break
    return deleted
