"""Rows that do not compress, so that a backup has a size."""

from zenzefi.backups.connections import open_direct
from zenzefi.settings import Settings


async def add_ballast(settings: Settings, *, megabytes: int) -> None:
    """Add a table of about so many megabytes."""
    async with open_direct(settings) as connection:
        await connection.execute("CREATE TABLE public.ballast (id bigint PRIMARY KEY, payload bytea NOT NULL)")
        await connection.execute(
            "INSERT INTO public.ballast SELECT i, (SELECT string_agg(sha256((i || ':' || j)::bytea), '') "
            f"FROM generate_series(1, 62) AS j) FROM generate_series(1, {megabytes * 512}) AS i"
        )
