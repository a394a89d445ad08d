"""The job queue's client side, and the serialiser that both sides share."""

import json
from collections.abc import Mapping
from typing import Any, Final, cast

from arq.connections import ArqRedis, RedisSettings, create_pool

from zenzefi.errors import RedisUnavailable
from zenzefi.infra.correlation import CURRENT
from zenzefi.jobs import Job
from zenzefi.settings import Settings

# The keyword argument in which a job carries the ids of the request that asked for it; see workers.scheduling.
ORIGIN: Final = "zenzefi_origin"


def serialize_job(job: Mapping[str, Any]) -> bytes:
    """JSON in place of arq's pickle: whoever can write to Redis must not be able to run code."""
    return json.dumps(job, default=repr, separators=(",", ":")).encode()


def deserialize_job(raw: bytes) -> dict[str, Any]:
    """The inverse of ``serialize_job``."""
    return cast(dict[str, Any], json.loads(raw))


def redis_settings(settings: Settings) -> RedisSettings:
    """Where arq finds its Redis."""
    return RedisSettings(
        host=settings.queue_redis_host,
        port=settings.queue_redis_port,
        database=settings.queue_redis_db,
        password=settings.queue_redis_password or None,
        conn_timeout=2,
        conn_retries=1,
    )


class JobQueue:
    """Enqueues jobs; connects at the first one."""

    def __init__(self, settings: Settings) -> None:
        """Take where Redis is."""
        self._settings = settings
        self._pool: ArqRedis | None = None

    async def enqueue(self, job: Job, *arguments: str | int, job_id: str | None = None) -> bool:
        """Ask for a job; False when one with the same ``job_id`` waits or runs already.

        Raises:
            RedisUnavailable: the queue cannot be reached.
        """
        try:
            if self._pool is None:
                self._pool = await create_pool(
                    redis_settings(self._settings), job_serializer=serialize_job, job_deserializer=deserialize_job
                )
            current = CURRENT.get()
            origin: dict[str, Any] = {} if current is None else {ORIGIN: current.document()}
            return await self._pool.enqueue_job(job.value, *arguments, _job_id=job_id, **origin) is not None
        except OSError as error:
            raise RedisUnavailable from error

    async def aclose(self) -> None:
        """Close the connection, if one was opened."""
        if self._pool is not None:
            await self._pool.aclose()
