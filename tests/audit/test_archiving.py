"""Old months of the audit log go to a real S3 server, and only then from the database."""

import gzip
import hashlib
import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from tests.audit.conftest import ROWS, write_month
from tests.support.s3_faults import Fault, FaultyS3
from workers.jobs import audit as jobs
from zenzefi.audit import archive_queries, archiving, sealing, service
from zenzefi.context import Context, open_context
from zenzefi.infra.storage import StorageError
from zenzefi.settings import Settings


async def rows_of(owner: "asyncpg.Connection[asyncpg.Record]", month: date) -> int:
    query = "SELECT count(*) FROM audit_log WHERE at >= $1 AND at < $2"
    begin = datetime(month.year, month.month, 1, tzinfo=UTC)
    count: int = await owner.fetchval(query, begin, begin + timedelta(days=28))
    return count


async def stored(ctx: Context, key: str) -> bytes:
    client: Any
    async with ctx.storage.open_client() as client:
        answer = await client.get_object(Bucket=ctx.storage.bucket, Key=key)
        async with answer["Body"] as body:
            data: bytes = await body.read()
    return data


def archive_get(request: web.Request) -> bool:
    """Reading an archive."""
    return request.method == "GET" and "/audit/" in request.path


async def test_an_old_month_is_archived_dropped_and_the_chain_still_holds(
    log: Context, owner: "asyncpg.Connection[asyncpg.Record]", month: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "ROWS_PER_PAGE", 7)
    before = await sealing.verify_audit_log(log)
    assert await jobs.archive_audit_log(log) == 1
    assert await owner.fetchval("SELECT to_regclass($1)", f"audit_log_{month:%Y_%m}") is None
    assert await rows_of(owner, month) == 0
    assert before.head is not None
    after = await sealing.verify_audit_log(log, anchor=(before.head.seal_no, before.head.seal_hash))
    assert (after.is_sound, after.sealed_rows, after.waiting_rows) == (True, 1, 1)
    async with log.connection() as conn:
        archive = await archive_queries.find_archive(conn, month=month)
    assert archive is not None
    data = await stored(log, archive.object_key)
    assert (len(data), hashlib.sha256(data).digest()) == (archive.size_bytes, archive.sha256)
    lines = gzip.decompress(data).splitlines()
    sealed = await owner.fetch(
        "SELECT s.row_hash FROM audit_sealed_rows s JOIN audit_archive_drops d ON s.entry_id < d.end_id "
        "ORDER BY s.entry_id"
    )
    assert [hashlib.sha256(line).digest() for line in lines] == [row["row_hash"] for row in sealed]
    assert json.loads(lines[0])[4:6] == ["thing.change", "thing"]
    assert (len(lines), archive.row_count) == (ROWS, ROWS)
    (entry,) = (await service.list_entries(log, action="audit.archive", limit=9))[0]
    assert entry.after == {"key": archive.object_key, "rows": ROWS, "sha256": archive.sha256.hex()}
    assert await jobs.archive_audit_log(log) == 0
    # A row that is gone from a month that is still there is missed as before.
    await owner.execute("DELETE FROM audit_log WHERE action = 'thing.change'")
    assert [fault.kind for fault in (await sealing.verify_audit_log(log)).faults] == ["missing"]


async def test_a_month_of_several_parts_is_one_object(
    log: Context, owner: "asyncpg.Connection[asyncpg.Record]", month: date, faults: FaultyS3
) -> None:
    # What cannot be compressed: 6 MiB of a month in parts of 5 MiB, the least that S3 takes.
    await owner.execute("TRUNCATE audit_log, audit_sealed_rows, audit_seals")
    await owner.execute(
        """
        INSERT INTO audit_log (id, at, actor_kind, action, resource_type, resource_id, after)
        SELECT
            uuid7_floor($1::timestamptz + number * interval '1 second'), $1, 'system', 'a', 'b', number,
            jsonb_build_object('x', (
                SELECT string_agg(sha512(format('%s:%s', number, piece)::bytea)::text, '')
                FROM generate_series(1, 100) AS piece
            ))
        FROM generate_series(1, 1200) AS number
        """,
        datetime(month.year, month.month, 1, tzinfo=UTC),
    )
    await jobs.seal_audit_log(log)
    assert await archiving.archive_audit_log(log, part_size=5 * 1024 * 1024) == 1
    assert sum("partNumber=2" in request for request in faults.requests) == 1
    assert (await sealing.verify_audit_log(log)).is_sound


@pytest.mark.parametrize("recorded", [True, False])
async def test_what_a_killed_run_left_is_finished_by_the_next(
    log: Context,
    owner: "asyncpg.Connection[asyncpg.Record]",
    month: date,
    recorded: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException):
        pass

    async def die(*_arguments: object, **_keywords: object) -> bool:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(archive_queries, "drop_month" if recorded else "insert_archive", die)
        with pytest.raises(Killed):
            await jobs.archive_audit_log(log)
    assert await rows_of(owner, month) > 0
    assert await owner.fetchval("SELECT count(*) FROM audit_archives") == int(recorded)
    assert await jobs.archive_audit_log(log) == 1
    assert await owner.fetchval("SELECT count(*) FROM audit_archives") == 1
    assert (await sealing.verify_audit_log(log)).is_sound


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.FLIP, Fault.CUT])
async def test_nothing_is_dropped_while_the_archive_cannot_be_read_back(
    log: Context, owner: "asyncpg.Connection[asyncpg.Record]", month: date, faults: FaultyS3, fault: Fault
) -> None:
    faults.inject(fault, archive_get, times=None)
    with pytest.raises(StorageError):
        await jobs.archive_audit_log(log)
    assert await rows_of(owner, month) > 0
    assert await owner.fetchval("SELECT count(*) FROM audit_archives") == 0
    faults.clear()
    assert await jobs.archive_audit_log(log) == 1


async def test_an_archive_that_was_lost_after_it_was_recorded_is_made_anew(
    log: Context, owner: "asyncpg.Connection[asyncpg.Record]", month: date
) -> None:
    await owner.execute(
        "INSERT INTO audit_archives VALUES ($1, $2, 'audit/nowhere', $3, 1, sha256('x'), now())",
        log.new_id(),
        month,
        ROWS,
    )
    assert await jobs.archive_audit_log(log) == 1
    assert (
        await owner.fetchval(
            "SELECT object_key FROM audit_archives a JOIN audit_archive_drops d ON d.archive_id = a.id"
        )
        != "audit/nowhere"
    )


async def test_a_month_that_does_not_fit_its_seals_stays_and_others_go(
    log: Context, owner: "asyncpg.Connection[asyncpg.Record]", month: date
) -> None:
    other = datetime(month.year, month.month, 1, tzinfo=UTC) - timedelta(days=31)
    await owner.execute("TRUNCATE audit_sealed_rows, audit_seals")
    await write_month(log, owner, other.replace(day=1))
    await jobs.seal_audit_log(log)
    await owner.execute("UPDATE audit_log SET action = 'thing.keep' WHERE at < $1", other.replace(day=2))
    with capture_logs() as logs:
        assert await jobs.archive_audit_log(log) == 1
    (line,) = (line for line in logs if line["log_level"] == "error")
    assert (line["event"], line["month"]) == ("audit_month_not_archived", f"{other:%Y-%m}")
    assert (await rows_of(owner, month), await rows_of(owner, other.date()) > 0) == (0, True)
    # An uncovered row, or one that is gone, keeps a month in the database, too.
    await owner.execute("UPDATE audit_log SET action = 'thing.change' WHERE at < $1", other.replace(day=2))
    await owner.execute("DELETE FROM audit_log WHERE id = (SELECT id FROM audit_log ORDER BY id LIMIT 1)")
    assert await jobs.archive_audit_log(log) == 0


async def test_without_s3_nothing_is_dropped(
    archive_env: dict[str, str], owner: "asyncpg.Connection[asyncpg.Record]", month: date
) -> None:
    without = {name: value for name, value in archive_env.items() if not name.startswith("S3_")}
    async with open_context(Settings.from_env(without)) as ctx:
        with capture_logs() as logs:
            assert await jobs.archive_audit_log(ctx) == 0
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["audit_log_not_archived"]
    assert await rows_of(owner, month) > 0


async def test_the_database_itself_refuses_to_drop_what_is_young_or_not_archived(
    log: Context, owner: "asyncpg.Connection[asyncpg.Record]", month: date
) -> None:
    async def drop(wanted: date) -> bool:
        async with log.transaction() as conn:
            return await archive_queries.drop_month(conn, month=wanted)

    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="no archive of them"):
        await drop(month)
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await drop(month.replace(day=2))
    young = log.now().replace(day=1).date()
    await owner.execute(
        "INSERT INTO audit_archives SELECT gen_random_uuid(), m, 'x', n, 1, sha256('x'), now() "
        "FROM (VALUES ($1::date, 1), ($2::date, $3)) AS made (m, n)",
        young,
        month,
        ROWS + 1,
    )
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="too young"):
        await drop(young)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="no archive of them"):
        await drop(month)  # its archive has another number of rows
    for statement in (
        f"DROP TABLE audit_log_{month:%Y_%m}",
        "DELETE FROM audit_archives",
        "UPDATE audit_archives SET row_count = 1",
        "INSERT INTO audit_archive_drops SELECT now(), id, id, id, 1, now() FROM audit_archives",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with log.transaction() as conn:
                await conn.execute(statement)
    assert await rows_of(owner, month) > 0
