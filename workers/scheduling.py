"""The words that the schedule is written in, and what surrounds every run of a job."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from time import perf_counter, time
from typing import Any, Final, TypeAlias
from zoneinfo import ZoneInfo

import asyncpg
import structlog
from arq.typing import WorkerCoroutine
from arq.worker import Retry

from workers import outcomes
from workers.timetable import Daily, Every, Timetable
from zenzefi.backups.errors import Locked
from zenzefi.context import Context
from zenzefi.errors import JsonValue, Unavailable
from zenzefi.infra import tracing
from zenzefi.infra.correlation import CURRENT, correlate_job
from zenzefi.infra.instruments import JOB_DURATION, JOB_LAST_SUCCESS, JOB_WAIT, JOBS
from zenzefi.infra.queue import ORIGIN
from zenzefi.infra.tracing import SpanKind, start_span
from zenzefi.jobs import Job

JobFunction: TypeAlias = Callable[..., Awaitable[int | str | None]]

CONTEXT: Final = "context"  # where arq's dictionary of a run carries ours

# The sweeps of the default queue work in batches and take milliseconds.
SHORT: Final = timedelta(minutes=1)
UTC: Final = ZoneInfo("UTC")
MAX_TRIES: Final = 5  # a run that kills its worker uses them up, too
_RETRY_DEFER_S: Final = 5
# Another run of the backups may take hours, and a night's backup is worth to wait for: five and a quarter in all.
LOCKED_DEFERS_S: Final = (60, 600, 3_600, 14_400)

# What passes by itself: the same run may succeed a little later.
_TRANSIENT: Final = (
    Unavailable,
    Locked,  # by another run of the backups
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)

log = structlog.get_logger("zenzefi.jobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A job: what runs, when (None: when somebody asks for it), and for how long at most.

    ``at_start`` has the last instant that was missed made up for when a worker starts.
    """

    job: Job
    function: JobFunction
    timetable: Timetable | None
    timeout_s: float
    at_start: bool = False


def every(
    interval_s: float, job: Job, function: JobFunction, *, at_start: bool = False, timeout: timedelta = SHORT
) -> Line:
    """Run a job at each multiple of `interval_s` seconds."""
    return _line(job, function, Every(period_s=max(interval_s, 1.0)), timeout=timeout, at_start=at_start)


def minutely(job: Job, function: JobFunction, *, second: int) -> Line:
    """Run a job each minute."""
    return _line(job, function, Every(period_s=60.0, offset_s=second), timeout=SHORT)


def hourly(job: Job, function: JobFunction, *, minute: int) -> Line:
    """Run a job each hour."""
    return _line(job, function, Every(period_s=3600.0, offset_s=60.0 * minute), timeout=SHORT)


def daily(
    job: Job,
    function: JobFunction,
    *,
    at: dt.time,
    zone: ZoneInfo = UTC,
    timeout: timedelta = SHORT,
    at_start: bool = False,
) -> Line:
    """Run a job each day, at a time of day of a time zone."""
    return _line(job, function, Daily(at=at, zone=zone), timeout=timeout, at_start=at_start)


def on_demand(job: Job, function: JobFunction, *, timeout: timedelta = SHORT) -> Line:
    """Run a job when somebody asks for it."""
    return _line(job, function, None, timeout=timeout)


def only_if(setting: object, line: Line) -> Line:
    """The line as it is where something is configured, else one that runs when somebody asks for it."""
    return line if setting else replace(line, timetable=None)


def _line(
    job: Job, function: JobFunction, timetable: Timetable | None, *, timeout: timedelta, at_start: bool = False
) -> Line:
    seconds = timeout.total_seconds()
    return Line(job=job, function=function, timetable=timetable, timeout_s=seconds, at_start=at_start)


def observed(line: Line) -> WorkerCoroutine:
    """Make what arq calls of a job: with our context, one log line, another try after what passes by itself.

    What came of the run is counted and kept, unless it is to be tried again.
    """

    async def run(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> None:
        job = line.job
        JOB_WAIT.labels(job.value).observe(max(0.0, time() - ctx["score"] / 1000))
        with (
            structlog.contextvars.bound_contextvars(job=job.value, job_id=ctx["job_id"], job_try=ctx["job_try"]),
            _correlated(job, kwargs.pop(ORIGIN, None)),
        ):
            await _run(line, ctx[CONTEXT], args, kwargs, job_try=ctx["job_try"])

    return run


async def _run(line: Line, ctx: Context, args: Any, kwargs: Any, *, job_try: int) -> None:
    started, outcome = perf_counter(), "failed"
    result: JsonValue = None
    try:
        async with asyncio.timeout(line.timeout_s):
            result = await line.function(ctx, *args, **kwargs)
        outcome = "done"
    except asyncio.CancelledError:
        outcome = "cancelled"
        raise
    except Exception as error:
        if isinstance(error, _TRANSIENT) and job_try < MAX_TRIES:
            outcome = "deferred"
            log.warning("job_deferred", error=repr(error))
            raise Retry(defer=_defer_s(error, job_try)) from error
        result = outcomes.tell_of(error)
        log.exception("job_failed", error=result)
        raise
    finally:
        duration_s = perf_counter() - started
        _count(line.job, outcome, duration_s)
        if outcome in ("done", "failed"):
            await outcomes.keep(ctx, line.job, succeeded=outcome == "done", result=result, duration_s=duration_s)
    log.info("job_done", result=result, duration_ms=round(duration_s * 1000, 3))


def _defer_s(error: Exception, job_try: int) -> int:
    return LOCKED_DEFERS_S[job_try - 1] if isinstance(error, Locked) else _RETRY_DEFER_S * job_try


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
        JOB_LAST_SUCCESS.labels(job.value).set(time())
