"""One worker process: arq's worker in our own loop, which outlives Redis and ends in order.

arq's command line is not used: it builds the worker outside a running loop, which Python deprecates, and it ends when
Redis does. Any number of these processes may run beside each other, on any number of machines.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

import structlog
import uvloop
from arq.connections import ArqRedis
from arq.cron import CronJob
from arq.worker import Function, Worker
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from workers.metrics import serve_metrics
from workers.schedule import schedule
from workers.scheduling import CONTEXT, JOB_TIMEOUT_S, MAX_TRIES
from zenzefi.context import Context, open_context
from zenzefi.errors import ZenzefiError
from zenzefi.infra.logging import configure_logging
from zenzefi.infra.queue import deserialize_job, serialize_job
from zenzefi.jobs import WORKER_KEY_PREFIX
from zenzefi.settings import Settings, SettingsError

MAX_JOBS = 10
HEARTBEAT_S = 10
# A command is tried again for some 15 s, so that the jobs that run outlive a restart of Redis.
REDIS_RETRIES = 20
_RECONNECT_S = 1.0
# The farewell to Redis must not keep a worker alive when it is Redis that is gone.
_CLOSE_TIMEOUT_S = 2.0

log = structlog.get_logger("zenzefi.worker")


def main() -> int:
    """Run a worker until SIGTERM or SIGINT; returns the exit code."""
    try:
        settings = Settings.from_env()
        configure_logging(settings.log_level)
        logging.getLogger("arq").setLevel(logging.WARNING)  # our own line for each run says more
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work(settings, cron_jobs=schedule(settings)))
    except (SettingsError, ZenzefiError) as error:
        print(f"zenzefi worker: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


async def work(settings: Settings, *, cron_jobs: Sequence[CronJob] = (), functions: Sequence[Function] = ()) -> None:
    """Run jobs until SIGTERM or SIGINT, through any number of outages of Redis.

    Then no new job is begun; those that run may finish within the drain timeout, and are queued again after it.
    """
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    async with open_context(settings) as ctx, serve_metrics(settings):
        log.info(
            "worker_started", pid=os.getpid(), jobs=[*(job.name for job in cron_jobs), *(job.name for job in functions)]
        )
        while not stop.is_set():
            worker = _build_worker(ctx, cron_jobs, functions)
            running = asyncio.ensure_future(worker.async_run())
            await _run_until_stopped(running, stop)
            if stop.is_set():
                await _drain(worker, settings.drain_timeout_s)
            await _close(worker, running)
            await _wait(stop, _RECONNECT_S)
        log.info("worker_stopped", pid=os.getpid())


def _build_worker(ctx: Context, cron_jobs: Sequence[CronJob], functions: Sequence[Function]) -> Worker:
    return Worker(
        functions=functions,
        cron_jobs=cron_jobs,
        redis_pool=_redis(ctx.settings),
        ctx={CONTEXT: ctx},
        handle_signals=False,
        max_jobs=MAX_JOBS,
        job_timeout=JOB_TIMEOUT_S,
        max_tries=MAX_TRIES,
        keep_result=0,  # a kept result would block its job id
        health_check_interval=HEARTBEAT_S,
        health_check_key=f"{WORKER_KEY_PREFIX}{socket.gethostname()}:{os.getpid()}",
        job_serializer=serialize_job,
        job_deserializer=deserialize_job,
    )


def _redis(settings: Settings) -> ArqRedis:
    """Return arq's client."""
    return ArqRedis(
        host=settings.queue_redis_host,
        port=settings.queue_redis_port,
        db=settings.queue_redis_db,
        password=settings.queue_redis_password or None,
        job_serializer=serialize_job,
        job_deserializer=deserialize_job,
        socket_connect_timeout=2,
        socket_timeout=5,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), REDIS_RETRIES),
        retry_on_error=[RedisConnectionError, RedisTimeoutError, OSError],
    )


async def _run_until_stopped(running: "asyncio.Future[None]", stop: asyncio.Event) -> None:
    """Return once `stop` is set, or once the worker ended by an error of its own: Redis was away for too long."""
    stopping = asyncio.ensure_future(stop.wait())
    either: set[asyncio.Future[Any]] = {running, stopping}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if running.done():
        log.warning("worker_interrupted", error=repr(running.exception()), again_in_s=_RECONNECT_S)


async def _drain(worker: Worker, timeout_s: float) -> None:
    worker.allow_pick_jobs = False
    running = [task for task in worker.tasks.values() if not task.done()]
    if running:
        log.info("worker_draining", jobs=len(running), timeout_s=timeout_s)
        await asyncio.wait(running, timeout=timeout_s)


async def _close(worker: Worker, running: "asyncio.Future[None]") -> None:
    """End the polling, cancel the jobs that still run, which queues them again, and take leave of Redis."""
    tasks: list[asyncio.Future[Any]] = [running, *worker.tasks.values()]
    for task in tasks:
        task.cancel()
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            # What ended by an error said so in its own log line, or met a Redis that is gone.
            await asyncio.gather(*tasks, return_exceptions=True)
            await worker.pool.delete(worker.health_check_key)
    except (RedisError, OSError) as error:  # TimeoutError is an OSError
        log.warning("worker_not_closed", error=repr(error))
    finally:
        await worker.pool.aclose()


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
