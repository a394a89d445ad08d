"""The schedule, and what surrounds a run of a job."""

import asyncio
import dataclasses
import json
from datetime import time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from arq.worker import Retry
from structlog.testing import capture_logs

from workers.schedule import lines_of, schedule
from workers.scheduling import CONTEXT, MAX_TRIES, JobFunction, observed, on_demand
from workers.timetable import Daily
from zenzefi.context import Context
from zenzefi.errors import DatabaseUnavailable
from zenzefi.infra import facts
from zenzefi.infra.db import open_database
from zenzefi.infra.instruments import JOBS
from zenzefi.jobs import Job, Queue
from zenzefi.settings import Settings

JOB = Job.PURGE_MAIL


def _run(ctx: Context, function: JobFunction, *arguments: int | str, job_try: int = 1, timeout_s: float = 60) -> Any:
    run = observed(on_demand(JOB, function, timeout=timedelta(seconds=timeout_s)))
    return run({CONTEXT: ctx, "job_id": "1", "job_try": job_try, "score": 0}, *arguments)


async def _fact(ctx: Context) -> dict[str, Any]:
    async with ctx.connection() as conn:
        return (await facts.read_all(conn))[f"job:{JOB}"][1]


def _counted(result: str) -> float:
    child = JOBS.labels(JOB.value, result)
    return child.cells[child.at]


def test_every_job_has_one_line_and_belongs_to_one_queue(settings: Settings) -> None:
    lines = schedule(settings)
    jobs = [line.job for line in lines]
    assert len(jobs) == len(set(jobs))
    assert sorted(jobs) == sorted(line.job for queue in Queue for line in lines_of(queue, lines))


def test_short_jobs_do_not_share_a_queue_with_long_ones(settings: Settings) -> None:
    lines = schedule(settings)
    assert max(line.timeout_s for line in lines_of(Queue.DEFAULT, lines)) <= 600
    assert min(line.timeout_s for line in lines_of(Queue.HEAVY, lines)) >= 3600


def _timetable(env: dict[str, str], job: Job) -> object:
    (line,) = (line for line in schedule(Settings.from_env(env)) if line.job is job)
    return line.timetable


def test_backups_are_made_at_a_time_of_a_zone_where_there_is_a_bucket_and_a_key(env: dict[str, str]) -> None:
    bucket, key = {"S3_BUCKET": "backups"}, {"BACKUP_RECIPIENTS": "age1example"}
    when = {"BACKUP_AT": "02:30", "BACKUP_TIMEZONE": "Europe/Berlin"}
    berlin = Daily(at=time(2, 30), zone=ZoneInfo("Europe/Berlin"))
    assert _timetable(env | bucket | key | when, Job.BACK_UP_DATABASE) == berlin
    later = Daily(at=time(11, 30), zone=ZoneInfo("Europe/Berlin"))
    assert _timetable(env | bucket | key | when, Job.PRUNE_BACKUPS) == later
    for missing in (bucket, key):
        assert _timetable(env | when | missing, Job.BACK_UP_DATABASE) is None


def test_mail_is_looked_after_only_where_there_is_a_server(env: dict[str, str]) -> None:
    for job in (Job.SEND_MAIL, Job.ANNOUNCE_EXPIRING_TOKENS):
        assert _timetable(env, job) is None
        assert _timetable(env | {"SMTP_HOST": "mail.example.com", "MAIL_FROM": "a@example.com"}, job) is not None


@pytest.mark.parametrize("trouble", [DatabaseUnavailable(), asyncpg.LockNotAvailableError("busy")])
async def test_what_passes_by_itself_is_tried_again_until_the_last_try(ctx: Context, trouble: Exception) -> None:
    async def fail(_ctx: Context) -> None:
        raise trouble

    with pytest.raises(Retry) as retry:
        await _run(ctx, fail, job_try=2)
    assert retry.value.defer_score == 10_000
    with pytest.raises(type(trouble)):
        await _run(ctx, fail, job_try=MAX_TRIES)


async def test_a_failure_is_loud_counted_and_kept_beside_the_last_success(ctx: Context) -> None:
    async def fail(_ctx: Context) -> None:
        raise ZeroDivisionError("https://somebody:pass@host")

    async def succeed(_ctx: Context) -> int:
        return 7

    failed = _counted("failed")
    await _run(ctx, succeed)
    success = await _fact(ctx)
    assert success["result"] == 7
    assert abs(success["last_success"] - ctx.now().timestamp()) < 10
    with capture_logs() as logs, pytest.raises(ZeroDivisionError):
        await _run(ctx, fail)
    (error,) = [line for line in logs if line["log_level"] == "error"]
    assert (error["event"], error["exc_info"]) == ("job_failed", True)
    failure = await _fact(ctx)
    assert failure["last_success"] == success["last_success"] <= failure["last_failure"]
    assert failure["result"].startswith("ZeroDivisionError: ")
    assert "pass@" not in json.dumps(failure)
    assert _counted("failed") == failed + 1


async def test_a_job_that_takes_too_long_has_failed(ctx: Context) -> None:
    async def hang(_ctx: Context) -> None:
        await asyncio.Event().wait()

    failed, cancelled = _counted("failed"), _counted("cancelled")
    with pytest.raises(TimeoutError):
        await _run(ctx, hang, timeout_s=0.05)
    assert (_counted("failed"), _counted("cancelled")) == (failed + 1, cancelled)
    assert (await _fact(ctx))["result"].startswith("TimeoutError")


async def test_a_database_that_is_away_does_not_undo_a_job(ctx: Context) -> None:
    async with open_database(ctx.settings) as database:
        pass
    done = _counted("done")

    async def succeed(_ctx: Context) -> None:
        return None

    with capture_logs() as logs:
        await _run(dataclasses.replace(ctx, db=database), succeed)
    assert [line["event"] for line in logs] == ["outcome_not_kept", "job_done"]
    assert _counted("done") == done + 1


async def test_a_job_gets_the_context_and_its_arguments(ctx: Context) -> None:
    seen: list[object] = []

    async def note(given: Context, *arguments: int | str) -> None:
        seen.extend([given, *arguments])

    await _run(ctx, note, 1, "two")
    assert seen == [ctx, 1, "two"]
