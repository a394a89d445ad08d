"""A month of the audit log as one object: gzip, sent in parts, and read back before anybody relies on it."""

import asyncio
import base64
import hashlib
import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final

import structlog

from zenzefi.infra.storage import StorageError, error_code

_GZIP: Final = 16 + zlib.MAX_WBITS
_PIECE: Final = 256 * 1024
# S3 takes no smaller part but the last, and 10,000 of them: 80 GB of a compressed month.
PART_SIZE: Final = 8 * 1024 * 1024
_ABORT_TIMEOUT_S: Final = 20.0

log = structlog.get_logger(__name__)


class ArchiveMissing(Exception):
    """There is no such object"""


class ArchiveUpload:
    """An object in the making; there is none under its key before it is complete. One part is in memory."""

    def __init__(self, client: Any, *, bucket: str, key: str, part_size: int = PART_SIZE) -> None:
        """Take where it will be; nothing is sent yet."""
        self._client = client
        self._object = {"Bucket": bucket, "Key": key}
        self._part_size = part_size
        self._compressor = zlib.compressobj(wbits=_GZIP)  # it writes no time: the same rows make the same bytes
        self._waiting = bytearray()
        self._digest = hashlib.sha256()
        self._parts: list[dict[str, Any]] = []
        self._upload_id = ""
        self.size = 0

    @property
    def sha256(self) -> bytes:
        """The digest of what was sent."""
        return self._digest.digest()

    async def start(self) -> None:
        """Have the store begin an upload."""
        answer = await self._client.create_multipart_upload(**self._object, ContentType="application/gzip")
        self._upload_id = answer["UploadId"]

    async def write(self, data: bytes) -> None:
        """Add to the object."""
        self._waiting += await asyncio.to_thread(self._compressor.compress, data)
        while len(self._waiting) >= self._part_size:
            part = bytes(self._waiting[: self._part_size])
            del self._waiting[: self._part_size]
            await self._send(part)

    async def complete(self) -> None:
        """Make it an object. When the answer is lost, reading it back tells whether it is one."""
        self._waiting += self._compressor.flush()
        await self._send(bytes(self._waiting))
        await self._client.complete_multipart_upload(
            **self._object, UploadId=self._upload_id, MultipartUpload={"Parts": self._parts}
        )

    async def abort(self) -> None:
        """Have the store forget the parts. Never raises."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            async with asyncio.timeout(_ABORT_TIMEOUT_S):
                await self._client.abort_multipart_upload(**self._object, UploadId=self._upload_id)
        except (BotoCoreError, ClientError, TimeoutError) as error:
            log.warning("audit_archive_upload_not_aborted", key=self._object["Key"], error=str(error))

    async def _send(self, part: bytes) -> None:
        self._digest.update(part)
        self.size += len(part)
        number = len(self._parts) + 1
        checksum = base64.b64encode(hashlib.md5(part, usedforsecurity=False).digest()).decode()
        answer = await self._client.upload_part(
            **self._object, UploadId=self._upload_id, PartNumber=number, Body=part, ContentMD5=checksum
        )
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})


async def read(client: Any, *, bucket: str, key: str) -> AsyncGenerator[bytes, None]:
    """Give an object in pieces.

    Raises:
        ArchiveMissing: there is none.
        StorageError: the store could not be read; the object may be there.
    """
    import aiohttp
    from botocore.exceptions import ClientError, HTTPClientError

    received = 0
    try:
        answer = await client.get_object(Bucket=bucket, Key=key)
        async with answer["Body"] as body:
            while piece := await body.read(_PIECE):
                received += len(piece)
                yield piece
    except ClientError as error:
        if error_code(error) in ("NoSuchKey", "404"):
            raise ArchiveMissing(key) from error
        raise
    except (HTTPClientError, aiohttp.ClientError, OSError) as error:
        raise StorageError(f"Reading {key} back broke at byte {received}: {error!r}.") from error


async def is_stored(client: Any, *, bucket: str, key: str, size: int, sha256: bytes) -> bool:
    """Read an object back, whole: whether it is there and has these bytes.

    Raises:
        StorageError: the store could not be read; the object may be there.
    """
    digest, received = hashlib.sha256(), 0
    try:
        async with aclosing(read(client, bucket=bucket, key=key)) as pieces:
            async for piece in pieces:
                digest.update(piece)
                received += len(piece)
    except ArchiveMissing:
        return False
    return (received, digest.digest()) == (size, sha256)


async def sweep(client: Any, *, bucket: str, prefix: str, begun_before: datetime) -> None:
    """Have the store forget uploads that a process left behind when it was killed; nobody sees them, and they cost."""
    answer = await client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
    for upload in answer.get("Uploads", []):
        if upload["Initiated"] < begun_before:
            await client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
