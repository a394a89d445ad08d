"""S3 through aiobotocore: one client per use, no surprises with stores other than AWS."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from zenzefi.errors import ZenzefiError
from zenzefi.upkeep_settings import ObjectStore

if TYPE_CHECKING:
    from aiobotocore.client import AioBaseClient

# A request is sent again after 0–1, 0–2 and 0–4 s: a store that hiccups is given some seconds, a dead one is told soon.
_ATTEMPTS = 4
_CONNECT_TIMEOUT_S = 5
# Between two pieces of an answer, too: completing an upload of many parts takes a store its time.
_READ_TIMEOUT_S = 120


class StorageError(ZenzefiError):
    """The object store refuses or cannot be reached"""

    status, code = 503, "storage_unavailable"


class BucketMissing(StorageError):
    """There is no such bucket"""

    code = "bucket_missing"


class Storage:
    """One bucket."""

    def __init__(self, store: ObjectStore) -> None:
        """Take endpoint, bucket and keys; nothing is connected yet."""
        self._store = store
        self._session: Any = None

    @property
    def is_configured(self) -> bool:
        """Whether a bucket is named."""
        return bool(self._store.bucket)

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._store.bucket

    @property
    def address(self) -> str:
        """What a person calls it."""
        return f"S3 bucket {self._store.bucket!r} at {self._store.endpoint_url or 'AWS'}"

    @asynccontextmanager
    async def open_client(self) -> AsyncIterator["AioBaseClient"]:
        """Lend a client.

        Raises:
            BucketMissing: S3 does not know the bucket.
            StorageError: what else S3 answered, or that it did not; the message says which and what to check.
        """
        # botocore takes 0.3 s to import and the web processes never need it.
        from aiobotocore.config import AioConfig
        from aiobotocore.session import get_session
        from botocore.exceptions import BotoCoreError, ClientError

        store = self._store
        if self._session is None:
            self._session = get_session()  # it keeps what it has read of S3's description: 0.1 s and 20 MB a time
        config: Any = AioConfig(
            signature_version="s3v4",
            s3={"addressing_style": "path" if store.path_style else "virtual"},
            retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=_READ_TIMEOUT_S,
            request_checksum_calculation=store.checksums.value,
            response_checksum_validation=store.checksums.value,
        )
        try:
            async with self._session.create_client(
                "s3",
                endpoint_url=store.endpoint_url or None,
                region_name=store.region,
                aws_access_key_id=store.access_key or None,
                aws_secret_access_key=store.secret_key or None,
                config=config,
            ) as client:
                yield client
        except (BotoCoreError, ClientError) as error:
            kind = BucketMissing if error_code(error) == "NoSuchBucket" else StorageError
            raise kind(f"{self.address}: {error}. Check the variables of its endpoint, name and keys.") from error

    async def check(self) -> None:
        """Ask for the bucket's head.

        Raises:
            StorageError: it does not exist, is not ours, or cannot be reached.
        """
        async with self.open_client() as client:
            await client.head_bucket(Bucket=self._store.bucket)


def error_code(error: Exception) -> str:
    """What S3 calls the error, such as NoSuchKey; of an answer without a body its HTTP status."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
