"""Monthly partitions, made ahead of their time."""

from typing import cast

from zenzefi.infra.db import Connection


async def make_partitions_ahead(conn: Connection) -> int:
    """Make the missing partitions of this month and the two after; returns how many. Idempotent.

    The application may not create tables: the function of the migrations runs as its owner. It gives up rather than
    wait for a lock, and the default partitions take what finds no other, so a run that fails costs nothing.

    Raises:
        asyncpg.LockNotAvailableError: a table was busy for more than a second; the next run tries again.
    """
    return cast(int, await conn.fetchval("SELECT make_partitions_ahead()"))


async def empty_default_partitions(conn: Connection) -> int:
    """Move rows that came before their month had its partition into one of their own; returns how many. Idempotent.

    Each month in a transaction of its own. What is busy, or much, stays where it is, which the database logs: there it
    can be read as well.
    """
    moved = 0
    while rows := cast(int, await conn.fetchval("SELECT empty_default_partitions()")):
        moved += rows
    return moved
