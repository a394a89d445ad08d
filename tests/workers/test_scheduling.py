"""The schedule's words, and what surrounds a run of a job."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from arq.worker import Retry

from workers.schedule import schedule
from workers.scheduling import CONTEXT, MAX_TRIES, every, observed
from zenzefi.context import Context
from zenzefi.errors import DatabaseUnavailable
from zenzefi.jobs import Job
from zenzefi.settings import Settings


async def _nothing(_ctx: Context) -> None:
    return None


def test_every_job_is_scheduled_under_its_own_name(settings: Settings) -> None:
    jobs = schedule(settings)
    assert sorted(job.name for job in jobs) == sorted(job.value for job in Job)
    assert {job.max_tries for job in jobs} == {MAX_TRIES}


def test_workers_agree_on_the_instants_of_an_interval() -> None:
    first, second = (every(50.0, Job.REFRESH_HEALTH, _nothing) for _ in range(2))
    first.calculate_next(datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC))
    second.calculate_next(datetime(2026, 1, 31, 12, 0, 3, 999_999, tzinfo=UTC))
    assert first.next_run == second.next_run
    assert first.next_run is not None
    assert first.next_run.timestamp() % 50 == 0
    again = first.next_run
    first.calculate_next(again)
    assert first.next_run - again == timedelta(seconds=50)


@pytest.mark.parametrize("trouble", [DatabaseUnavailable(), asyncpg.LockNotAvailableError("busy")])
async def test_what_passes_by_itself_is_tried_again(ctx: Context, trouble: Exception) -> None:
    async def fail(_ctx: Context) -> None:
        raise trouble

    run = observed(Job.MAKE_PARTITIONS, fail)
    with pytest.raises(Retry) as retry:
        await run(_run_context(ctx, job_try=2))
    assert retry.value.defer_score == 10_000


async def test_a_defect_is_not_tried_again(ctx: Context) -> None:
    async def fail(_ctx: Context) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await observed(Job.MAKE_PARTITIONS, fail)(_run_context(ctx))


async def test_a_job_gets_the_context_and_its_arguments(ctx: Context) -> None:
    seen: list[object] = []

    async def note(given: Context, *arguments: int | str) -> None:
        seen.extend([given, *arguments])

    await observed(Job.MAKE_PARTITIONS, note)(_run_context(ctx), 1, "two")
    assert seen == [ctx, 1, "two"]


def _run_context(ctx: Context, *, job_try: int = 1) -> dict[Any, Any]:
    return {CONTEXT: ctx, "job_id": "1", "job_try": job_try}
