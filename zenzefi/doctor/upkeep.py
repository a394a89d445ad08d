"""What a running installation shows: its workers do their jobs, and backups are made and proven."""

import time
from collections.abc import Mapping
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Final, TypeAlias

import asyncpg
from redis.exceptions import RedisError

from zenzefi.audit import inspection as audit_inspection
from zenzefi.backups import findings as backup_findings
from zenzefi.doctor.findings import Finding, fail, ok, warn
from zenzefi.errors import DatabaseUnavailable, JsonObject, RedisUnavailable
from zenzefi.health import census
from zenzefi.infra import facts
from zenzefi.infra.db import open_database
from zenzefi.infra.queue import JobQueue
from zenzefi.jobs import Queue
from zenzefi.settings import Settings
from zenzefi.wallet import inspection as ledger_inspection

# A snapshot is taken each 15 s; the alert SnapshotStale is as patient.
MAX_SNAPSHOT_AGE_S: Final = 300.0
# As the alerts QueueLag, BackupMissing and BackupUnverified.
MAX_QUEUE_AGE_S: Final = {Queue.DEFAULT: 120.0, Queue.HEAVY: 7200.0}
MAX_BACKUP_AGE_S: Final = 26 * 3600.0
_HOUR_S: Final = 3600.0

Facts: TypeAlias = Mapping[str, tuple[datetime, JsonObject]]


async def check_upkeep(settings: Settings) -> list[Finding]:
    """Look at what jobs found last; nothing without the servers, which are told of elsewhere."""
    findings: list[Finding] = []
    with suppress(DatabaseUnavailable, asyncpg.PostgresError):
        async with open_database(settings) as database, database.connection() as conn:
            known = await facts.read_all(conn)
        findings += [
            _check_scheduler(known),
            *_check_backups(known),
            _check_inspection("ledger", known.get(ledger_inspection.FACT), "zenzefi ledger verify"),
            _check_inspection("audit log", known.get(audit_inspection.FACT), "zenzefi audit verify"),
        ]
    with suppress(RedisError, RedisUnavailable, OSError):
        async with aclosing(JobQueue(settings)) as queue:
            findings.append(
                _check_lag({queue: found.oldest_age_s for queue, found in (await queue.read_state()).items()})
            )
    return findings


def _check_scheduler(known: Facts) -> Finding:
    at, _ = known.get(census.FACT, (None, {}))
    if at is None:
        return fail("scheduler", "no job has run yet", "Start the workers; their log says what stops them.")
    age_s = time.time() - at.timestamp()
    if age_s > MAX_SNAPSHOT_AGE_S:
        detail = f"the last snapshot is {_span(age_s)} old, and one is due each 15 s"
        return fail("scheduler", detail, "Start the workers; their log says what stops them.")
    return ok("scheduler", f"the last snapshot is {age_s:.0f} s old")


def _check_lag(ages_s: Mapping[Queue, float]) -> Finding:
    late = [f"{queue} for {_span(age_s)}" for queue, age_s in ages_s.items() if age_s > MAX_QUEUE_AGE_S[queue]]
    if late:
        return fail("queue lag", f"jobs wait: {', '.join(late)}", "Start more workers; deploy/runbooks/QueueLag.md")
    return ok("queue lag", ", ".join(f"{queue} {age_s:.0f} s" for queue, age_s in ages_s.items()))


def _check_backups(known: Facts) -> list[Finding]:
    _, backups = known.get(backup_findings.FACT, (None, {}))
    return [
        _check_age("last backup", backups.get("last_success"), "zenzefi backup now; deploy/runbooks/BackupMissing.md"),
        _check_age(
            "last verification",
            backups.get("last_verified"),
            "zenzefi backup verify, where BACKUP_IDENTITY is; deploy/runbooks/BackupUnverified.md",
        ),
    ]


def _check_age(name: str, instant: object, fix: str) -> Finding:
    if not isinstance(instant, int | float):
        return fail(name, "never", fix)
    age_s = time.time() - instant
    if age_s > MAX_BACKUP_AGE_S:
        return fail(name, f"of a backup {_span(age_s)} old", fix)
    return ok(name, f"of a backup {_span(age_s)} old")


def _check_inspection(name: str, fact: tuple[datetime, JsonObject] | None, command: str) -> Finding:
    if fact is None:
        return warn(name, "not inspected yet: that is done each night", command)
    at, document = fact
    faults = document.get("faults")
    when = f"{_span(time.time() - at.timestamp())} ago"
    if faults:
        return fail(name, f"{faults} faults, found {when}", f"{command} names them.")
    return ok(name, f"sound, {when}")


def _span(seconds: float) -> str:
    return f"{seconds / _HOUR_S:.1f} h" if seconds > _HOUR_S else f"{seconds:.0f} s"
