"""The words that the schedule is written in, and what surrounds every run of a job."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import asyncpg
import structlog
from arq.cron import CronJob, cron
from arq.typing import WorkerCoroutine
from arq.worker import Retry

from zenzefi.context import Context
from zenzefi.errors import Unavailable
from zenzefi.infra import tracing
from zenzefi.infra.correlation import CURRENT, correlate_job
from zenzefi.infra.instruments import JOB_DURATION, JOB_LAST_SUCCESS, JOBS
from zenzefi.infra.queue import ORIGIN
from zenzefi.infra.tracing import SpanKind, start_span
from zenzefi.jobs import Job

JobFunction: TypeAlias = Callable[..., Awaitable[int | str | None]]

CONTEXT = "context"  # where arq's dictionary of a run carries ours

# After kill -9 arq runs a job again when the longest timeout of the worker plus 10 s have passed, so no job here may be
# allowed to be long. The sweeps work in batches and take milliseconds.
JOB_TIMEOUT_S = 60
MAX_TRIES = 5
_RETRY_DEFER_S = 5

# What passes by itself: the same run may succeed a little later.
_TRANSIENT = (
    Unavailable,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)

log = structlog.get_logger("zenzefi.jobs")


@dataclass
class IntervalJob(CronJob):
    """A job that runs each `interval_s` seconds. All workers compute the same instants, so each run is queued once."""

    interval_s: float = 60.0

    def calculate_next(self, prev_run: datetime) -> None:
        """Set the next whole multiple of the interval since 1970."""
        multiple = prev_run.timestamp() // self.interval_s + 1
        self.next_run = datetime.fromtimestamp(multiple * self.interval_s, UTC)


def every(interval_s: float, job: Job, function: JobFunction) -> CronJob:
    """Run a job at each multiple of `interval_s` seconds."""
    values = {**vars(_cron(job, function, run_at_startup=True)), "interval_s": max(interval_s, 1.0)}
    return IntervalJob(**values)


def minutely(job: Job, function: JobFunction, *, second: int) -> CronJob:
    """Run a job each minute."""
    return _cron(job, function, second=second)


def hourly(job: Job, function: JobFunction, *, minute: int) -> CronJob:
    """Run a job each hour."""
    return _cron(job, function, minute=minute)


def daily(job: Job, function: JobFunction, *, hour: int, minute: int, run_at_startup: bool = False) -> CronJob:
    """Run a job each day."""
    return _cron(job, function, hour=hour, minute=minute, run_at_startup=run_at_startup)


def _cron(job: Job, function: JobFunction, **when: Any) -> CronJob:
    # Its name is the job's, so JobQueue.enqueue finds it as well. cron() would give it one try only.
    run = observed(job, function)
    return cron(run, name=job.value, timeout=JOB_TIMEOUT_S, max_tries=MAX_TRIES, keep_result=0, **when)


def observed(job: Job, function: JobFunction) -> WorkerCoroutine:
    """Make what arq calls of a job: with our context, one log line, and another try after what passes by itself."""

    async def run(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> None:
        context: Context = ctx[CONTEXT]
        started, outcome = time.perf_counter(), "failed"
        with (
            structlog.contextvars.bound_contextvars(job=job.value, job_id=ctx["job_id"], job_try=ctx["job_try"]),
            _correlated(job, kwargs.pop(ORIGIN, None)),
        ):
            try:
                result = await function(context, *args, **kwargs)
                outcome = "done"
            except _TRANSIENT as error:
                outcome = "deferred"
                log.warning("job_deferred", error=repr(error))
                raise Retry(defer=_RETRY_DEFER_S * ctx["job_try"]) from error
            except asyncio.CancelledError:
                outcome = "cancelled"
                raise
            finally:
                _count(job, outcome, time.perf_counter() - started)
            log.info("job_done", result=result, duration_ms=round((time.perf_counter() - started) * 1000, 3))

    return run


@contextmanager
def _correlated(job: Job, origin: object) -> Iterator[None]:
    """Have what a run logs and causes carry the ids of the request that asked for it; a scheduled run gets new ones."""
    correlation = correlate_job(origin)
    span = None
    if tracing.is_on():
        attributes = {"messaging.system": "arq", "messaging.operation.name": "process", "zenzefi.job": job.value}
        span = start_span(job.value, SpanKind.CONSUMER, cause=correlation, attributes=attributes)
        correlation = span.correlation
    token = CURRENT.set(correlation)
    failure: str | None = None
    try:
        yield
    except BaseException as error:
        failure = type(error).__name__
        raise
    finally:
        CURRENT.reset(token)
        if span is not None:
            span.end(error=failure)


def _count(job: Job, outcome: str, duration_s: float) -> None:
    JOBS.labels(job.value, outcome).inc()
    JOB_DURATION.labels(job.value).observe(duration_s)
    if outcome == "done":
        JOB_LAST_SUCCESS.labels(job.value).set(time.time())
