"""A nightly backup that finds another run at work is tried again, for hours; when that never ends, it is told."""

import asyncio
from datetime import timedelta

import pytest
from arq.worker import Retry
from structlog.testing import capture_logs

from tests.workers.conftest import worker_here
from workers import scheduling
from workers.jobs.backups import back_up_database
from workers.scheduling import CONTEXT, LOCKED_DEFERS_S, MAX_TRIES, Line, observed, on_demand
from zenzefi.backups.errors import Locked
from zenzefi.backups.locks import exclusive_run
from zenzefi.backups.repository import Repository
from zenzefi.context import Context
from zenzefi.infra import facts
from zenzefi.infra.instruments import JOBS
from zenzefi.jobs import Job, Queue

_JOB = Job.BACK_UP_DATABASE


def _line() -> Line:
    return on_demand(_JOB, back_up_database, timeout=timedelta(minutes=1))


async def test_the_run_waits_for_another_to_end_and_is_done(
    backup_ctx: Context, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "LOCKED_DEFERS_S", (1,) * (MAX_TRIES - 1))
    with capture_logs() as logs:

        async def is_logged(event: str) -> None:
            async with asyncio.timeout(60):
                while event not in [line["event"] for line in logs]:  # noqa: ASYNC110  a list tells nobody
                    await asyncio.sleep(0.02)

        async with worker_here(backup_ctx, _line(), queue=Queue.HEAVY):
            async with exclusive_run(backup_ctx):
                await backup_ctx.queue.enqueue(_JOB)
                await is_logged("job_deferred")
                assert await repository.ids() == []
            await is_logged("job_done")
    assert len(await repository.ids()) == 1


async def test_a_run_that_never_gets_its_turn_has_failed(backup_ctx: Context) -> None:
    run, waits = observed(_line()), []
    failed = JOBS.labels(_JOB.value, "failed")
    before = failed.cells[failed.at]
    async with exclusive_run(backup_ctx):
        for job_try in range(1, MAX_TRIES):
            with pytest.raises(Retry) as retry:
                await run({CONTEXT: backup_ctx, "job_id": "1", "job_try": job_try, "score": 0})
            waits.append((retry.value.defer_score or 0) / 1000)
        with pytest.raises(Locked):
            await run({CONTEXT: backup_ctx, "job_id": "1", "job_try": MAX_TRIES, "score": 0})

    assert waits == list(LOCKED_DEFERS_S)
    assert timedelta(hours=5) < timedelta(seconds=sum(waits)) < timedelta(hours=12), "before the next night's"
    assert failed.cells[failed.at] == before + 1  # the alert JobsFail counts it
    async with backup_ctx.connection() as conn:
        document = (await facts.read_all(conn))[f"job:{_JOB}"][1]
    assert str(document["result"]).startswith("Locked: ")
    assert "last_success" not in document  # nor is there a backup, which the alert BackupMissing sees
