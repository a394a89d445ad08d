"""What stores other than AWS need spelled out: checksums, conditions and locks of single objects."""

import base64
import hashlib
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from zenzefi.infra.storage import error_code
from zenzefi.upkeep_settings import BackupSettings

# How stores say that they do not know conditional writes (Backblaze B2, older MinIO).
_UNKNOWN_CONDITION = {"NotImplemented", "InvalidArgument", "InvalidRequest"}
_CONDITION_FAILED = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


def content_md5(data: bytes | memoryview) -> str:
    """The checksum that every store compares, and that Object Lock demands."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def object_lock(settings: BackupSettings, created_at: datetime) -> dict[str, object]:
    """Keeps an object from being deleted for some days; the bucket must have been made with Object Lock."""
    if not settings.object_lock_days:
        return {}
    return {
        "ObjectLockMode": settings.object_lock_mode.value.upper(),
        "ObjectLockRetainUntilDate": created_at + timedelta(days=settings.object_lock_days),
    }


def store_time(answer: dict[str, Any]) -> datetime:
    """The store's clock, which dates its objects, too."""
    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])


async def put_if(client: Any, *, condition: dict[str, str], **arguments: Any) -> bool:
    """Put an object under a condition, where the store knows conditions; whether what was given is there now.

    A put that took effect and whose answer was lost meets its own object when it is sent again: that counts as taken.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        try:
            await client.put_object(**condition, **arguments)
        except ClientError as error:
            if error_code(error) not in _UNKNOWN_CONDITION:
                raise
            await client.put_object(**arguments)
    except ClientError as error:
        if await _is_there(client, arguments):
            return True
        if error_code(error) in _CONDITION_FAILED:
            return False
        raise
    except BotoCoreError:
        if await _is_there(client, arguments):
            return True
        raise
    return True


async def _is_there(client: Any, arguments: dict[str, Any]) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = await client.get_object(Bucket=arguments["Bucket"], Key=arguments["Key"])
        async with answer["Body"] as body:
            return bool(await body.read() == arguments["Body"])
    except (BotoCoreError, ClientError):
        return False  # the put's own error says more
