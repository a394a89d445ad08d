"""S3 through aiobotocore: one client per use, no surprises with stores other than AWS."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from zenzefi.upkeep_settings import ObjectStore

if TYPE_CHECKING:
    from aiobotocore.client import AioBaseClient


class StorageError(Exception):
    """The object store refuses or cannot be reached; the message says which and what to check."""


class Storage:
    """One bucket."""

    def __init__(self, store: ObjectStore) -> None:
        """Take endpoint, bucket and keys; nothing is connected yet."""
        self._store = store

    @property
    def is_configured(self) -> bool:
        """Whether a bucket is named."""
        return bool(self._store.bucket)

    @asynccontextmanager
    async def open_client(self) -> AsyncIterator["AioBaseClient"]:
        """Lend a client.

        Raises:
            StorageError: what S3 answered, or that it did not.
        """
        # botocore takes 0.3 s to import and the web processes never need it.
        from aiobotocore.config import AioConfig
        from aiobotocore.session import get_session
        from botocore.exceptions import BotoCoreError, ClientError

        store = self._store
        config: Any = AioConfig(
            signature_version="s3v4",
            s3={"addressing_style": "path" if store.path_style else "virtual"},
            retries={"max_attempts": 2},
            connect_timeout=5,
            read_timeout=60,
            request_checksum_calculation=store.checksums.value,
            response_checksum_validation=store.checksums.value,
        )
        try:
            async with get_session().create_client(
                "s3",
                endpoint_url=store.endpoint_url or None,
                region_name=store.region,
                aws_access_key_id=store.access_key or None,
                aws_secret_access_key=store.secret_key or None,
                config=config,
            ) as client:
                yield client
        except (BotoCoreError, ClientError) as error:
            raise StorageError(
                f"S3 bucket {store.bucket!r} at {store.endpoint_url or 'AWS'}: {error}. "
                "Check S3_ENDPOINT_URL, S3_BUCKET, S3_ACCESS_KEY and S3_SECRET_KEY."
            ) from error

    async def check(self) -> None:
        """Ask for the bucket's head.

        Raises:
            StorageError: it does not exist, is not ours, or cannot be reached.
        """
        async with self.open_client() as client:
            await client.head_bucket(Bucket=self._store.bucket)
