"""SQL of the outbox."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from zenzefi.infra.db import Connection
from zenzefi.mail.models import Mail, MailKind, MailState


async def insert_mail(
    conn: Connection,
    *,
    mail_id: UUID,
    user_id: UUID,
    kind: MailKind,
    event_id: UUID,
    details: Mapping[str, str],
    now: datetime,
    give_up_at: datetime,
    counted_from: datetime,
    limit: int,
) -> bool:
    """Write a mail; False when its event has one, or when the user got `limit` of this kind since `counted_from`."""
    status = await conn.execute(
        """
        INSERT INTO mails (id, user_id, kind, event_id, details, due_at, give_up_at, created_at)
        SELECT $1::uuid, $2::uuid, $3::text, $4::uuid, $5::jsonb, $6::timestamptz, $7::timestamptz, $6::timestamptz
        WHERE $9 > (
            SELECT count(*) FROM (
                SELECT FROM mails WHERE user_id = $2 AND kind = $3 AND created_at > $8 LIMIT $9::bigint
            ) AS recent
        )
        ON CONFLICT ON CONSTRAINT mails_event_key DO NOTHING
        """,
        mail_id,
        user_id,
        kind.value,
        event_id,
        dict(details),
        now,
        give_up_at,
        counted_from,
        limit,
    )
    return status == "INSERT 0 1"


async def claim_mail(conn: Connection, *, now: datetime, until: datetime) -> Mail | None:
    """Take the mail that has been due for longest, unless another process is just taking it; it is due again then."""
    row = await conn.fetchrow(
        """
        WITH due AS (
            SELECT id FROM mails WHERE state = 'waiting' AND due_at <= $1 ORDER BY due_at LIMIT 1
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE mails AS mail SET attempts = mail.attempts + 1, due_at = $2
        FROM due, users
        WHERE mail.id = due.id AND users.id = mail.user_id
        RETURNING mail.id, mail.kind, mail.details, mail.attempts, mail.give_up_at, mail.created_at,
            users.email AS recipient, users.username, users.is_active
        """,
        now,
        until,
    )
    return None if row is None else Mail(**{**row, "kind": MailKind(row["kind"])})


async def begin_sending(conn: Connection, *, mail: Mail, until: datetime) -> bool:
    """Note that a claimed mail is about to be handed in; False when another process has claimed it since."""
    status = await conn.execute(
        "UPDATE mails SET state = 'sending', due_at = $3 WHERE id = $1 AND attempts = $2 AND state = 'waiting'",
        mail.id,
        mail.attempts,
        until,
    )
    return status == "UPDATE 1"


async def update_deferred(conn: Connection, *, mail: Mail, due_at: datetime, outcome: str) -> bool:
    """Have a claimed mail that the server certainly does not have wait for another attempt; False if it is not ours."""
    status = await conn.execute(
        """
        UPDATE mails SET state = 'waiting', due_at = $3, outcome = $4
        WHERE id = $1 AND attempts = $2 AND state IN ('waiting', 'sending')
        """,
        mail.id,
        mail.attempts,
        due_at,
        outcome,
    )
    return status == "UPDATE 1"


async def update_ended(conn: Connection, *, mail: Mail, state: MailState, outcome: str) -> bool:
    """Give a claimed mail its last state; False when it is not ours any more.

    One that was given up as unknown, because this process was stopped for long, is corrected.
    """
    status = await conn.execute(
        """
        UPDATE mails SET state = $3, outcome = $4
        WHERE id = $1 AND attempts = $2 AND state IN ('waiting', 'sending', 'unknown')
        """,
        mail.id,
        mail.attempts,
        state.value,
        outcome,
    )
    return status == "UPDATE 1"


async def update_lost(conn: Connection, *, now: datetime, limit: int) -> list[tuple[UUID, MailKind]]:
    """Give up mails whose handing in began and of which nothing was heard."""
    # An array, not a join: where the planner expects many, it would read the whole table to join with it.
    rows = await conn.fetch(
        """
        UPDATE mails SET state = 'unknown', outcome = 'interrupted'
        WHERE id = ANY (ARRAY(
            SELECT id FROM mails WHERE state = 'sending' AND due_at <= $1 ORDER BY due_at LIMIT $2
            FOR NO KEY UPDATE SKIP LOCKED
        ))
        RETURNING id, kind
        """,
        now,
        limit,
    )
    return [(row["id"], MailKind(row["kind"])) for row in rows]


async def get_outbox(conn: Connection, *, now: datetime, limit: int) -> tuple[int, datetime | None]:
    """How many mails are due, counted up to `limit`, and since when the oldest of them."""
    row = await conn.fetchrow(
        """
        SELECT count(*) AS due, min(due_at) AS oldest
        FROM (
            SELECT due_at FROM mails WHERE state = 'waiting' AND due_at <= $1 ORDER BY due_at LIMIT $2::bigint
        ) AS due
        """,
        now,
        limit,
    )
    assert row is not None
    return row["due"], row["oldest"]


async def delete_mails(conn: Connection, *, created_before: datetime, limit: int) -> int:
    """Delete mails by their age; the count."""
    status = await conn.execute(
        """
        DELETE FROM mails WHERE id = ANY (ARRAY(
            SELECT id FROM mails WHERE created_at < $1 ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
        ))
        """,
        created_before,
        limit,
    )
    return int(status.rpartition(" ")[2])
