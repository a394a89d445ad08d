"""What a job found out last, kept in the database: it outlives the worker, and every worker can show it."""

from datetime import datetime

from zenzefi.errors import JsonObject
from zenzefi.infra.db import Connection


async def put(conn: Connection, *, name: str, document: JsonObject, at: datetime) -> None:
    """Replace what is known under a name; an older finding never replaces a newer one."""
    await conn.execute(
        "INSERT INTO facts (name, document, at) VALUES ($1, $2, $3) ON CONFLICT (name) DO UPDATE "
        "SET document = excluded.document, at = excluded.at WHERE facts.at <= excluded.at",
        name,
        document,
        at,
    )


async def merge(conn: Connection, *, name: str, document: JsonObject, at: datetime) -> None:
    """Replace these members of what is known under a name and keep its others; an older finding changes nothing."""
    await conn.execute(
        "INSERT INTO facts (name, document, at) VALUES ($1, $2, $3) ON CONFLICT (name) DO UPDATE "
        "SET document = facts.document || excluded.document, at = excluded.at WHERE facts.at <= excluded.at",
        name,
        document,
        at,
    )


async def read_all(conn: Connection) -> dict[str, tuple[datetime, JsonObject]]:
    """Everything that is known, by name, each with when it was found."""
    rows = await conn.fetch("SELECT name, at, document FROM facts")
    return {row["name"]: (row["at"], row["document"]) for row in rows}
