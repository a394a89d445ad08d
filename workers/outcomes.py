"""What came of each job's last run, kept in the database: it outlives the worker, and every worker can show it."""

import asyncpg
import structlog

from zenzefi.context import Context
from zenzefi.errors import DatabaseUnavailable, JsonObject, JsonValue
from zenzefi.infra import facts
from zenzefi.infra.logging import redact
from zenzefi.jobs import Job

_MAX_RESULT_CHARS = 500

log = structlog.get_logger("zenzefi.jobs")


def fact_name(job: str) -> str:
    """The name of a job's fact. It has ``last_success`` and ``last_failure``, epoch seconds, once there was one."""
    return f"job:{job}"


async def keep(ctx: Context, job: Job, *, succeeded: bool, result: JsonValue, duration_s: float) -> None:
    """Keep what came of a run, as one small write. A database that is away is logged and changes nothing else."""
    now = ctx.now()
    shown = str(result)[:_MAX_RESULT_CHARS] if isinstance(result, str) else result
    document: JsonObject = {
        "last_success" if succeeded else "last_failure": now.timestamp(),
        "duration_s": round(duration_s, 3),
        "result": shown,
    }
    try:
        async with ctx.connection() as conn:
            await facts.merge(conn, name=fact_name(job), document=document, at=now)
    except (DatabaseUnavailable, asyncpg.PostgresError) as error:
        log.warning("outcome_not_kept", job=job.value, error=repr(error))


def tell_of(error: BaseException) -> str:
    """An error in one line, without secrets."""
    return str(redact(f"{type(error).__name__}: {error}"))
