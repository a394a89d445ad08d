"""A worker process of the tests: the product's own, with one job that keeps a journal in Redis.

`python -m tests.workers.journal_worker TIMEOUT_S REDIS_RETRIES`
"""

import asyncio
import sys
from contextlib import aclosing

from arq.worker import func

from workers import main
from workers.scheduling import observed
from zenzefi.context import Context
from zenzefi.infra.logging import configure_logging
from zenzefi.infra.redis import plain_client
from zenzefi.jobs import Job
from zenzefi.settings import Settings

JOURNAL = "znz:test:journal"
# The name of a job that exists, so that the product's own queue can ask for it.
JOB = Job.CLOSE_IDLE_SESSIONS


async def keep_journal(ctx: Context, seconds: int) -> None:
    """Write when it begins and ends; between the two it takes its time."""
    for line, pause_s in (("begun", seconds), ("ended", 0)):
        # A connection of its own for each line: the context's would fail once after a restart of Redis.
        async with aclosing(plain_client(ctx.settings)) as client:
            await client.execute_command("RPUSH", JOURNAL, line)  # type: ignore[no-untyped-call]
        await asyncio.sleep(pause_s)


def run(timeout_s: float, redis_retries: int) -> None:
    settings = Settings.from_env()
    configure_logging(settings.log_level)
    main.REDIS_RETRIES = redis_retries
    job = func(observed(JOB, keep_journal), name=JOB.value, timeout=timeout_s)
    asyncio.run(main.work(settings, functions=[job]))


if __name__ == "__main__":
    run(float(sys.argv[1]), int(sys.argv[2]))
