"""SQL of the health slice."""

from zenzefi.infra.db import Connection


async def select_one(conn: Connection) -> None:
    """Ask the database for the least that it can answer."""
    await conn.fetchval("SELECT 1")


async def has_migration_table(conn: Connection) -> bool:
    """Whether any migration was ever applied."""
    return await conn.fetchval("SELECT to_regclass('public._yoyo_migration') IS NOT NULL") is True


async def select_applied_migrations(conn: Connection) -> set[str]:
    """Return the ids of the applied migrations."""
    return {row["migration_id"] for row in await conn.fetch("SELECT migration_id FROM public._yoyo_migration")}
