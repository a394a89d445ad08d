"""Comparing the archives of dropped months with their records, and each of their rows with its seal."""

import hashlib
import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final
from uuid import UUID

from zenzefi.audit import archive_queries, archive_store
from zenzefi.audit.models import Archive, ArchiveCheck, DroppedMonth
from zenzefi.context import Context

_GZIP: Final = 16 + zlib.MAX_WBITS
_INFLATED: Final = 1024 * 1024  # at a time: a few bytes may stand for very many
_LONGEST_ROW: Final = 64 * 1024 * 1024  # far beyond what requests can be
_HASHES_PER_PAGE: Final = 5_000


class _Unfit(Exception):
    """The archive is not what was recorded or sealed."""


async def verify_archives(ctx: Context) -> list[ArchiveCheck]:
    """Download the archive of each month that was dropped and compare it, the oldest first; changes nothing.

    Raises:
        StorageError: the object store refuses or cannot be reached.
    """
    async with ctx.connection() as conn:
        months = await archive_queries.select_dropped_months(conn)
    if not months:
        return []
    checks = []
    async with ctx.storage.open_client() as client:
        for month in months:
            try:
                await _compare(ctx, client, month)
                fault = None
            except archive_store.ArchiveMissing:
                fault = f"{ctx.storage.address} has no such object"
            except _Unfit as unfit:
                fault = str(unfit)
            checks.append(ArchiveCheck(archive=month.archive, fault=fault))
    return checks


async def _compare(ctx: Context, client: Any, month: DroppedMonth) -> None:
    archive, count = month.archive, 0
    async with (
        aclosing(_rows(_checked(ctx, client, archive))) as rows,
        aclosing(_sealed_hashes(ctx, month)) as sealed_hashes,
    ):
        async for row in rows:
            count += 1
            sealed = await _next(sealed_hashes)
            if sealed is None:
                raise _Unfit(f"it has more rows than the {count - 1} that were sealed")
            entry_id, row_hash = sealed
            if hashlib.sha256(row).digest() != row_hash:
                raise _Unfit(f"its row {count} is not what was sealed as {entry_id}")
        if missing := await _next(sealed_hashes):
            raise _Unfit(f"the row {missing[0]} and those after it are missing")
    if count != archive.row_count:
        raise _Unfit(f"it has {count} rows instead of {archive.row_count}")


async def _next(sealed_hashes: AsyncGenerator[tuple[UUID, bytes], None]) -> tuple[UUID, bytes] | None:
    """The next one. (The default of `anext` breaks generators that await in Python 3.11.)"""
    try:
        return await anext(sealed_hashes)
    except StopAsyncIteration:
        return None


async def _checked(ctx: Context, client: Any, archive: Archive) -> AsyncGenerator[bytes, None]:
    """The object in pieces; at its end comes an error unless it has the recorded size and digest."""
    digest, received = hashlib.sha256(), 0
    async with aclosing(archive_store.read(client, bucket=ctx.storage.bucket, key=archive.object_key)) as pieces:
        async for piece in pieces:
            digest.update(piece)
            received += len(piece)
            yield piece
    if received != archive.size_bytes:
        raise _Unfit(f"it has {received} bytes instead of {archive.size_bytes}")
    if digest.digest() != archive.sha256:
        raise _Unfit("its SHA-256 is not the recorded one")


async def _rows(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The lines of a compressed object."""
    inflater, waiting = zlib.decompressobj(wbits=_GZIP), b""
    async with aclosing(_inflated(inflater, pieces)) as inflated:
        async for piece in inflated:
            *lines, waiting = (waiting + piece).split(b"\n")
            for line in lines:
                yield line
            if len(waiting) > _LONGEST_ROW:
                raise _Unfit("it has a row that no log has")
    if waiting or not inflater.eof or inflater.unused_data:
        raise _Unfit("it does not end with its last row")


async def _inflated(inflater: "zlib._Decompress", pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                compressed = piece
                while compressed:
                    yield inflater.decompress(compressed, _INFLATED)
                    compressed = inflater.unconsumed_tail
        yield inflater.flush()
    except zlib.error as error:
        raise _Unfit(f"it cannot be decompressed: {error}") from error


async def _sealed_hashes(ctx: Context, month: DroppedMonth) -> AsyncGenerator[tuple[UUID, bytes], None]:
    last: UUID | None = None
    while True:
        async with ctx.connection() as conn:
            page = await archive_queries.select_sealed_hashes(
                conn, first_id=month.first_id, end_id=month.end_id, after=last, limit=_HASHES_PER_PAGE
            )
        for sealed in page:
            yield sealed
        if len(page) < _HASHES_PER_PAGE:
            return
        last = page[-1][0]
