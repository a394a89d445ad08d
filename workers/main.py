"""One worker process of one queue: it waits for what it needs, runs jobs in our own loop, and ends in order.

arq's command line is not used: it builds the worker outside a running loop, which Python deprecates, and it ends when
Redis does. Any number of these processes may run beside each other, on any number of machines.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import structlog
import uvloop
from redis.exceptions import RedisError

from workers.metrics import serve_metrics
from workers.runner import CLAIM_S, QueueWorker
from workers.schedule import lines_of, schedule
from workers.scheduling import Line
from workers.ticking import Ticker
from zenzefi.context import Context, open_context
from zenzefi.errors import DatabaseUnavailable, ZenzefiError
from zenzefi.health.gauges import show_facts
from zenzefi.infra.instruments import JOB_PERIOD, JOBS
from zenzefi.infra.logging import configure_logging
from zenzefi.jobs import Queue
from zenzefi.settings import Settings, SettingsError

_DATABASE_RETRY_S: Final = 2.0
# What a cancelled job may take to end its children and its uploads.
_CANCEL_TIMEOUT_S: Final = 3.0
# The farewell to Redis must not keep a worker alive when it is Redis that is gone.
_LEAVE_TIMEOUT_S: Final = 1.0

log = structlog.get_logger("zenzefi.worker")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    parser.add_argument("--queue", type=Queue, choices=list(Queue), default=Queue.DEFAULT)
    queue = parser.parse_args(arguments).queue
    try:
        settings = Settings.from_env()
        configure_logging(settings.log_level)
        _quieten_arq()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work(settings, queue=queue, lines=schedule(settings)))
    except (SettingsError, ZenzefiError) as error:
        print(f"zenzefi worker: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _quieten_arq() -> None:
    """Our own lines for each run say more than arq's, tracebacks included; its warnings are wanted."""
    logging.getLogger("arq").setLevel(logging.WARNING)
    logging.getLogger("arq.worker").addFilter(lambda record: not record.exc_info)


async def work(settings: Settings, *, queue: Queue, lines: Sequence[Line], claim_s: float = CLAIM_S) -> None:
    """Run this queue's jobs until SIGTERM or SIGINT, through any number of outages.

    Then no new job is begun; those that run may finish within the drain timeout, and are queued again after it.
    """
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    mine = lines_of(queue, lines)
    _declare(lines, mine)
    async with serve_metrics(settings), AsyncExitStack() as stack:
        ctx = await _open(stack, settings, stop)
        if ctx is None:
            return
        worker = QueueWorker(ctx, queue=queue, lines=mine, claim_s=claim_s)
        log.info("worker_started", pid=os.getpid(), queue=queue.value, jobs=[line.job.value for line in mine])
        async with show_facts(ctx):
            await _run(ctx, worker, Ticker(ctx, worker.pool, mine), stop)
        log.info("worker_stopped", pid=os.getpid(), queue=queue.value)


def _declare(lines: Sequence[Line], mine: Sequence[Line]) -> None:
    """Have the series of all jobs from the start: one that is born with its first failure has not increased."""
    for line in lines:
        if line.timetable is not None:
            JOB_PERIOD.labels(line.job.value).set(line.timetable.period_s)
    for line in mine:
        for result in ("done", "failed"):
            JOBS.labels(line.job.value, result)


async def _open(stack: AsyncExitStack, settings: Settings, stop: asyncio.Event) -> Context | None:
    """The context, as soon as the database can be reached; None when it is time to stop before."""
    reason = ""
    while not stop.is_set():
        opening = asyncio.ensure_future(stack.enter_async_context(open_context(settings)))
        if not await _until(stop, opening):
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            return None
        try:
            return opening.result()
        except DatabaseUnavailable as error:
            if str(error) != reason:
                reason = str(error)
                log.warning("database_awaited", reason=reason, again_in_s=_DATABASE_RETRY_S)
        await _until(stop, asyncio.ensure_future(asyncio.sleep(_DATABASE_RETRY_S)))
    return None


async def _run(ctx: Context, worker: QueueWorker, ticker: Ticker, stop: asyncio.Event) -> None:
    create_task = asyncio.get_running_loop().create_task
    polling, beating, ticking = map(create_task, (worker.main(), worker.keep_alive(), ticker.run()))
    try:
        # None of the three ends by itself but by a defect, which ends the process, and is told.
        for ended in await _until(stop, polling, beating, ticking):
            ended.result()
    finally:
        await _end(ticking)
        worker.allow_pick_jobs = False
        await _drain(worker, ctx.settings.drain_timeout_s)
        await _end(polling, *worker.running.values())  # cancelled jobs are queued again
        await _end(beating)
        await _take_leave(worker)


async def _drain(worker: QueueWorker, timeout_s: float) -> None:
    running = list(worker.running.values())
    if running:
        log.info("worker_draining", jobs=len(running), timeout_s=timeout_s)
        await asyncio.wait(running, timeout=timeout_s)


async def _end(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    # What ended by an error said so in its own log line, or met a Redis that is gone.
    await asyncio.wait(tasks, timeout=_CANCEL_TIMEOUT_S)


async def _take_leave(worker: QueueWorker) -> None:
    try:
        async with asyncio.timeout(_LEAVE_TIMEOUT_S):
            await worker.take_leave()
    except (RedisError, OSError) as error:  # TimeoutError is an OSError
        log.warning("worker_not_closed", error=repr(error))


async def _until(stop: asyncio.Event, *futures: "asyncio.Future[Any]") -> "set[asyncio.Future[Any]]":
    """Wait for one of the futures to be done, or for the time to stop; those that are done."""
    stopping = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait({stopping, *futures}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    return done - {stopping}
