"""Rows that do not compress, so that a backup has a size."""

import os

from zenzefi.backups.connections import open_direct
from zenzefi.settings import Settings

_ROW_BYTES = 64 * 1024


async def add_ballast(settings: Settings, *, megabytes: int) -> None:
    """Add a table of so many megabytes."""
    async with open_direct(settings) as connection:
        await connection.execute(
            "CREATE TABLE public.ballast (id bigint PRIMARY KEY, payload bytea STORAGE EXTERNAL NOT NULL)"
        )
        rows = ((number, os.urandom(_ROW_BYTES)) for number in range(megabytes * 1024 * 1024 // _ROW_BYTES))
        await connection.copy_records_to_table("ballast", schema_name="public", records=rows)
