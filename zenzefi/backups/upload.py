"""A stream of unknown length as one object: multipart, two parts in memory, and visible only once it is whole."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import structlog

from zenzefi.backups.errors import UploadFailed
from zenzefi.backups.objects import content_md5
from zenzefi.infra.storage import error_code

MIB = 1024 * 1024
# S3 takes 10,000 parts of 5 MiB to 5 GiB. A part in memory is one that can be sent again.
MIN_PART = 8 * MIB
MAX_PART = 5 * 1024 * MIB
MAX_PARTS = 10_000
# An estimate may be wrong. From here on parts double every 500, which is enough for the largest object that S3 takes.
_STEADY_PARTS, _DOUBLING_PARTS = MAX_PARTS // 2, 500
_ABORT_TIMEOUT_S = 20.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """What is stored."""

    size: int
    sha256: str


def part_size(number: int, *, first: int) -> int:
    """How long the part with this number is, counted from 1, when the first one is `first` bytes long."""
    doublings = 0 if number <= _STEADY_PARTS else (number - _STEADY_PARTS - 1) // _DOUBLING_PARTS + 1
    return min(int(first << doublings), MAX_PART)


def first_part_size(expected_size: int) -> int:
    """How long parts begin, so that half of the numbers are enough for what is expected: 8 MiB up to 40 GB."""
    return max(MIN_PART, -(-expected_size // _STEADY_PARTS))


class MultipartUpload:
    """One upload: started, fed, and completed or aborted."""

    def __init__(self, client: Any, *, bucket: str, key: str, lock: dict[str, object]) -> None:
        self._client = client
        self._object = {"Bucket": bucket, "Key": key}
        self._lock = lock
        self._id = ""
        self._sending: asyncio.Task[dict[str, Any]] | None = None
        self._parts: list[dict[str, Any]] = []
        self._digest = hashlib.sha256()
        self.size = 0

    async def start(self) -> None:
        """Have the store begin an upload.

        Raises:
            UploadFailed: the bucket does not know Object Lock, and it is asked for.
        """
        from botocore.exceptions import ClientError

        try:
            answer = await self._client.create_multipart_upload(
                **self._object, **self._lock, ContentType="application/octet-stream"
            )
        except ClientError as error:
            if self._lock and error_code(error) in ("InvalidRequest", "InvalidArgument", "NotImplemented"):
                raise UploadFailed(
                    f"The bucket {self._object['Bucket']} takes no locked objects ({error}). It must have been "
                    "made with Object Lock; or set BACKUP_OBJECT_LOCK_DAYS=0."
                ) from error
            raise
        self._id = answer["UploadId"]

    async def add(self, part: BytesIO) -> None:
        """Send a part while the next one is filled; waits for the one before it, and raises that one's error."""
        await self._settle()
        with part.getbuffer() as data:
            # hashlib lets go of the interpreter: the loop's other work goes on.
            await asyncio.to_thread(self._digest.update, data)
            checksum = await asyncio.to_thread(content_md5, data)
            self.size += len(data)
        self._sending = asyncio.create_task(self._send(len(self._parts) + 1, part, checksum))

    async def complete(self) -> Uploaded:
        """Make the parts an object.

        Raises:
            UploadFailed: the store says that it did, and has no such object.
            ClientError, BotoCoreError: the store refused or cannot be reached, and the object is not there.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        await self._settle()
        try:
            await self._client.complete_multipart_upload(
                **self._object, UploadId=self._id, MultipartUpload={"Parts": self._parts}
            )
        except (BotoCoreError, ClientError) as error:
            # The answer may be lost of a completion that took effect; when it is sent again there is no such upload.
            if not await self._is_whole():
                raise
            log.warning("backup_upload_completed_without_an_answer", key=self._object["Key"], error=str(error))
        else:
            if not await self._is_whole():
                raise UploadFailed(f"The store completed {self._object['Key']} and has no such object of that size.")
        return Uploaded(size=self.size, sha256=self._digest.hexdigest())

    async def abort(self) -> None:
        """Have the store forget the parts; when it cannot be asked, sweeping finds them later. Never raises."""
        from botocore.exceptions import BotoCoreError, ClientError

        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        if not self._id:
            return
        try:
            async with asyncio.timeout(_ABORT_TIMEOUT_S):
                await self._client.abort_multipart_upload(**self._object, UploadId=self._id)
        except (BotoCoreError, ClientError, OSError) as error:  # TimeoutError is an OSError
            if error_code(error) != "NoSuchUpload":
                log.warning("backup_upload_not_aborted", key=self._object["Key"], error=repr(error))

    async def _settle(self) -> None:
        if self._sending is not None:
            self._parts.append(await self._sending)
            self._sending = None

    async def _send(self, number: int, part: BytesIO, checksum: str) -> dict[str, Any]:
        part.seek(0)
        answer = await self._client.upload_part(
            **self._object, UploadId=self._id, PartNumber=number, Body=part, ContentMD5=checksum
        )
        checksums = {
            name: value for name, value in answer.items() if name.startswith("Checksum") and name[8:].isupper()
        }
        return {"PartNumber": number, "ETag": answer["ETag"], **checksums}

    async def _is_whole(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = await self._client.head_object(**self._object)
        except (BotoCoreError, ClientError):
            return False
        return bool(answer["ContentLength"] == self.size)


async def upload(
    source: AsyncIterator[bytes], *, to: MultipartUpload, first_part: int, tell: Callable[[int], None]
) -> Uploaded:
    """Store a stream; `tell` gets the bytes so far after each part. Whatever fails or cancels it aborts the upload."""
    try:
        await to.start()
        async with aclosing(_parts(source, first=first_part)) as parts:
            async for part in parts:
                await to.add(part)
                tell(to.size)
        return await to.complete()
    except BaseException:
        await asyncio.shield(to.abort())
        raise


async def _parts(source: AsyncIterator[bytes], *, first: int) -> AsyncGenerator[BytesIO, None]:
    """Cut a stream into parts of exact sizes, at least one: some stores refuse a part that is longer than the first."""
    part, number = BytesIO(), 1
    async for piece in source:
        rest = memoryview(piece)
        while rest:
            room = part_size(number, first=first) - part.tell()
            part.write(rest[:room])
            rest = rest[room:]
            if part.tell() == part_size(number, first=first):
                yield part
                part, number = BytesIO(), number + 1
    if part.tell() or number == 1:
        yield part
