"""The job queues' client side, and what both sides share: the serialiser, the keys and the connection."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast
from uuid import uuid4

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from redis.asyncio.retry import Retry
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from zenzefi.errors import RedisUnavailable
from zenzefi.infra.correlation import CURRENT
from zenzefi.jobs import Job, Queue, queue_of
from zenzefi.settings import Settings

# The keyword argument in which a job carries the ids of the request that asked for it; see workers.scheduling.
ORIGIN: Final = "zenzefi_origin"
# A worker tells that it lives this often; one that has not for longer than three times that counts as dead.
HEARTBEAT_S: Final = 5.0
DEAD_AFTER_S: Final = 3 * HEARTBEAT_S
# Of jobs that wait, the oldest of so many are asked for, to find the first that nobody runs: more never run at once.
_OLDEST: Final = 200


def serialize_job(job: Mapping[str, Any]) -> bytes:
    """JSON in place of arq's pickle: whoever can write to Redis must not be able to run code."""
    return json.dumps(job, default=repr, separators=(",", ":")).encode()


def deserialize_job(raw: bytes) -> dict[str, Any]:
    """The inverse of ``serialize_job``."""
    return cast(dict[str, Any], json.loads(raw))


def queue_key(queue: Queue) -> str:
    """The sorted set of a queue's jobs by when they are due."""
    return f"znz:queue:{queue}"


def workers_key(queue: Queue) -> str:
    """The sorted set of a queue's workers by their last heartbeat."""
    return f"znz:workers:{queue}"


def open_queue_client(settings: Settings, *, retry: Retry | None = None) -> ArqRedis:
    """A client of the queues' server, which connects at its first command."""
    return ArqRedis(
        host=settings.queue_redis_host,
        port=settings.queue_redis_port,
        db=settings.queue_redis_db,
        password=settings.queue_redis_password or None,
        job_serializer=serialize_job,
        job_deserializer=deserialize_job,
        socket_connect_timeout=2,
        socket_timeout=5,
        retry=retry,
        retry_on_error=[RedisConnectionError, RedisTimeoutError, OSError] if retry else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """What waits in a queue, and for how long the oldest of it has been due; how many workers tell that they live."""

    waiting: int
    oldest_age_s: float
    workers: int


class JobQueue:
    """Enqueues jobs; connects at the first one."""

    def __init__(self, settings: Settings) -> None:
        """Take where Redis is."""
        self._client = open_queue_client(settings)

    async def enqueue(self, job: Job, *arguments: str | int, job_id: str | None = None) -> str:
        """Ask for a job, in the queue that is its own; returns its id.

        While a job with the same ``job_id`` waits or runs, another one is not enqueued.

        Raises:
            RedisUnavailable: the queue cannot be reached.
        """
        job_id = job_id or uuid4().hex
        current = CURRENT.get()
        origin: dict[str, Any] = {} if current is None else {ORIGIN: current.document()}
        try:
            await self._client.enqueue_job(
                job.value, *arguments, _job_id=job_id, _queue_name=queue_key(queue_of(job)), **origin
            )
        except (RedisError, OSError) as error:
            raise RedisUnavailable from error
        return job_id

    async def read_state(self) -> dict[Queue, QueueState]:
        """How busy each queue is: two round trips, whatever its length.

        Raises:
            RedisUnavailable: the queue cannot be reached.
        """
        try:
            return {queue: await self._read_state(queue_key(queue), workers_key(queue)) for queue in Queue}
        except (RedisError, OSError) as error:
            raise RedisUnavailable from error

    async def _read_state(self, jobs: str, workers: str) -> QueueState:
        now = time.time()
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.zcount(jobs, "-inf", now * 1000)
            pipe.zrangebyscore(jobs, "-inf", now * 1000, start=0, num=_OLDEST, withscores=True)
            pipe.zcount(workers, now - DEAD_AFTER_S, "+inf")
            due, oldest, alive = await pipe.execute()
        if not oldest:
            return QueueState(waiting=0, oldest_age_s=0.0, workers=alive)
        # A job stays in the queue until it is done; while it runs there is a claim on it.
        claims = await self._client.mget([in_progress_key_prefix + job_id.decode() for job_id, _ in oldest])
        unclaimed = [due_ms for (_, due_ms), claim in zip(oldest, claims, strict=True) if claim is None]
        return QueueState(
            waiting=due - (len(oldest) - len(unclaimed)),
            oldest_age_s=max(0.0, now - unclaimed[0] / 1000) if unclaimed else 0.0,
            workers=alive,
        )

    async def aclose(self) -> None:
        """Close the connections, if any were opened."""
        await self._client.aclose()


class HasQueue(Protocol):
    """A Context, as this module knows it."""

    @property
    def queue(self) -> JobQueue:
        """The process's way to the queues."""


async def queue_state(ctx: HasQueue) -> dict[Queue, QueueState]:
    """How busy each queue is; see ``JobQueue.read_state``."""
    return await ctx.queue.read_state()
