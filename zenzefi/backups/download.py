"""Reading a stored dump: in pieces, resumed where the connection broke, and compared with what the manifest says."""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog

from zenzefi.backups.errors import BackupDamaged
from zenzefi.infra.storage import StorageError, error_code

_PIECE = 256 * 1024
# In a row, without a byte between them: a download of hours may be cut any number of times.
_MAX_BREAKS = 3

log = structlog.get_logger(__name__)


async def download(client: Any, *, bucket: str, key: str, size: int, sha256: str) -> AsyncGenerator[bytes, None]:
    """Give an object's bytes; raises after the last piece when they are not those of the manifest.

    Raises:
        BackupDamaged: the object is missing, or differs in size or SHA-256.
        StorageError: the connection broke again and again.
    """
    from botocore.exceptions import ClientError

    digest, received = hashlib.sha256(), 0
    try:
        async with aclosing(_pieces(client, bucket=bucket, key=key)) as pieces:
            async for piece in pieces:
                received += len(piece)
                if received > size:
                    break
                digest.update(piece)
                yield piece
    except ClientError as error:
        if error_code(error) not in ("NoSuchKey", "404"):
            raise
        raise BackupDamaged(f"The manifest names {key}, and the bucket has no such object.") from error
    if received != size:
        raise BackupDamaged(
            f"{key} has {'more than ' * (received > size)}{min(received, size)} bytes instead of {size}."
        )
    if digest.hexdigest() != sha256:
        raise BackupDamaged(f"{key} has the SHA-256 {digest.hexdigest()} instead of {sha256}.")


async def _pieces(client: Any, *, bucket: str, key: str) -> AsyncGenerator[bytes, None]:
    import aiohttp
    from botocore.exceptions import HTTPClientError

    offset, etag, breaks = 0, "", 0
    while True:
        resume = {"Range": f"bytes={offset}-", "IfMatch": etag} if offset else {}
        try:
            answer = await client.get_object(Bucket=bucket, Key=key, **resume)
            etag = answer["ETag"]
            remaining = answer["ContentLength"]
            async with answer["Body"] as body:
                while piece := await body.read(_PIECE):
                    offset, remaining, breaks = offset + len(piece), remaining - len(piece), 0
                    yield piece
            if remaining <= 0:
                return
            error: Exception = EOFError(f"{remaining} bytes are missing")
        except (HTTPClientError, aiohttp.ClientError, OSError) as broken:
            error = broken
        breaks += 1
        log.warning("backup_download_interrupted", key=key, offset=offset, error=repr(error))
        if breaks > _MAX_BREAKS:
            raise StorageError(f"Reading {key} broke {breaks} times at byte {offset}: {error!r}.") from error
