"""A worker process of the tests: the product's own, with one job of its queue that keeps a journal in Redis.

`python -m tests.workers.journal_worker QUEUE CLAIM_S REDIS_RETRIES`
"""

import asyncio
import sys
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

from workers import runner
from workers.main import work
from workers.scheduling import on_demand
from zenzefi.context import Context
from zenzefi.infra.logging import configure_logging
from zenzefi.infra.redis import plain_client
from zenzefi.jobs import Job, Queue
from zenzefi.settings import Settings

JOURNAL = "znz:test:journal"
# Names of jobs that exist, so that the product's own queue can ask for them.
JOB = Job.CLOSE_IDLE_SESSIONS
HEAVY_JOB = Job.INSPECT_LEDGER


async def keep_journal(ctx: Context, until: str) -> None:
    """Write when it begins and ends; between the two it waits for a file."""
    await _note(ctx, "begun")
    while not Path(until).exists():  # noqa: ASYNC110  another process makes it, at a moment of its choice
        await asyncio.sleep(0.02)
    await _note(ctx, "ended")


async def _note(ctx: Context, line: str) -> None:
    # A connection of its own for each line: the context's would fail once after a restart of Redis.
    async with aclosing(plain_client(ctx.settings)) as client:
        await client.execute_command("RPUSH", JOURNAL, line)  # type: ignore[no-untyped-call]


def run(queue: Queue, claim_s: float, redis_retries: int) -> None:
    settings = Settings.from_env()
    configure_logging(settings.log_level)
    runner.REDIS_RETRIES = redis_retries
    lines = [on_demand(job, keep_journal, timeout=timedelta(hours=6)) for job in (JOB, HEAVY_JOB)]
    asyncio.run(work(settings, queue=queue, lines=lines, claim_s=claim_s))


if __name__ == "__main__":
    run(Queue(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
