"""The seals over the audit log: every committed row gets one, and whatever is tampered with is named."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from tests.support.plans import PLAN_MODES, plan_of
from tests.support.servers import Cluster
from workers.jobs import audit as jobs
from zenzefi.audit import queries, sealing
from zenzefi.audit.models import Actor, AuditFaultKind
from zenzefi.audit.seal_queries import find_newest_seal, insert_sealed_rows
from zenzefi.context import Context, open_context
from zenzefi.infra.db import Connection
from zenzefi.infra.ids import uuid7
from zenzefi.settings import Settings


@pytest.fixture
async def log(settings: Settings, fresh_database: str) -> AsyncIterator[Context]:
    """A context whose audit log is empty."""
    async with open_context(replace(settings, postgres_db=fresh_database)) as ctx:
        yield ctx


@pytest.fixture
async def owner(cluster: Cluster, fresh_database: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """Somebody who may do everything in the database."""
    connection = await cluster.connect(fresh_database)
    yield connection
    await connection.close()


async def write_step(conn: Connection, ctx: Context, *, number: int, entry_id: UUID | None = None) -> UUID:
    entry_id = entry_id or ctx.new_id()
    await queries.insert_entry(
        conn,
        entry_id=entry_id,
        at=ctx.now(),
        actor=replace(Actor.system(), ip="2001:db8::1", user_agent='a "quoted" agent, ü'),
        action="thing.change",
        resource_type="thing",
        resource_id=str(number),
        before={"number": number, "nested": {"b": [1, None], "a": "ü"}},
        after=None,
    )
    return entry_id


async def write(ctx: Context, count: int) -> list[UUID]:
    """So many rows, each in a transaction of its own."""
    ids = []
    for number in range(count):
        async with ctx.transaction() as conn:
            ids.append(await write_step(conn, ctx, number=number))
    return ids


async def faults_of(ctx: Context) -> list[tuple[AuditFaultKind, str]]:
    return [(fault.kind, fault.subject) for fault in (await sealing.verify_audit_log(ctx)).faults]


async def test_every_row_is_sealed_once_in_batches(log: Context) -> None:
    assert (await sealing.verify_audit_log(log)).is_sound
    assert await jobs.seal_audit_log(log) == 0
    await write(log, 25)
    assert (await sealing.verify_audit_log(log)).waiting_rows == 25
    assert await sealing.seal_audit_log(log, rows_per_seal=10) == 25
    await write(log, 1)
    # Of several at once one seals, and the others find nothing to do.
    assert sum(await asyncio.gather(*(sealing.seal_audit_log(log) for _ in range(5)))) == 1
    report = await sealing.verify_audit_log(log)
    assert (report.is_sound, report.sealed_rows, report.waiting_rows) == (True, 26, 0)
    assert report.head is not None
    assert report.head.seal_no == 4


async def test_a_row_that_is_committed_late_is_sealed_later_and_nobody_waits(log: Context) -> None:
    async with log.transaction() as conn:
        late = await write_step(conn, log, number=1)
        newer = await write(log, 3)
        assert await sealing.seal_audit_log(log) == 3
        assert late < min(newer)
    assert await sealing.seal_audit_log(log) == 1
    assert (await sealing.verify_audit_log(log)).is_sound


async def test_all_rows_of_writers_beside_the_sealing_are_sealed(log: Context) -> None:
    async def seal_on() -> None:
        while True:
            await sealing.seal_audit_log(log, rows_per_seal=7)

    sealer = asyncio.create_task(seal_on())
    await asyncio.gather(*(write(log, 40) for _ in range(5)))
    sealer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sealer
    await sealing.seal_audit_log(log)
    report = await sealing.verify_audit_log(log)
    assert (report.is_sound, report.sealed_rows, report.waiting_rows) == (True, 200, 0)


@pytest.mark.parametrize(
    "change",
    [
        "action = 'thing.keep'",
        "actor_kind = 'operator'",
        "at = at + interval '1 microsecond'",
        "before = jsonb_set(before, '{nested,b,0}', '2')",
        "after = '{}'",
        "ip = '2001:db8::2'",
        "request_id = 'x'",
        "resource_id = resource_id || ' '",
    ],
)
async def test_an_altered_row_is_named(log: Context, owner: "asyncpg.Connection[asyncpg.Record]", change: str) -> None:
    ids = await write(log, 5)
    await sealing.seal_audit_log(log)
    assert await faults_of(log) == []
    await owner.execute(f"UPDATE audit_log SET {change} WHERE id = $1", ids[2])
    assert await faults_of(log) == [(AuditFaultKind.ALTERED, str(ids[2]))]


async def test_a_missing_and_an_inserted_row_are_named(
    log: Context, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    ids = await write(log, 5)
    await sealing.seal_audit_log(log)
    await owner.execute("DELETE FROM audit_log WHERE id = $1", ids[3])
    inserted = uuid7((log.now() - timedelta(hours=1)).timestamp())
    async with log.transaction() as conn:
        await write_step(conn, log, number=9, entry_id=inserted)
    await write(log, 1)
    assert await sealing.seal_audit_log(log) == 1, "the old row is not taken in with the new one"
    assert await faults_of(log) == [
        (AuditFaultKind.MISSING, str(ids[3])),
        (AuditFaultKind.INSERTED, str(inserted)),
    ]


async def test_seals_that_were_made_to_fit_a_changed_row_are_found(
    log: Context, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    ids = await write(log, 6)
    await sealing.seal_audit_log(log, rows_per_seal=2)
    head = (await sealing.verify_audit_log(log)).head
    assert head is not None
    # The row, its hash and all seals from there on are made anew: only who noted the head can tell.
    await owner.execute("UPDATE audit_sealed_rows SET row_hash = sha256('x') WHERE entry_id = $1", ids[0])
    assert (AuditFaultKind.SEAL_BROKEN, "1") in await faults_of(log)
    await owner.execute("DELETE FROM audit_seals WHERE seal_no = 2")
    assert {(AuditFaultKind.SEAL_BROKEN, "3"), (AuditFaultKind.SEAL_MISSING, "2")} <= set(await faults_of(log))
    await owner.execute("TRUNCATE audit_seals, audit_sealed_rows")
    await sealing.seal_audit_log(log)
    assert await faults_of(log) == []
    report = await sealing.verify_audit_log(log, anchor=(head.seal_no, head.seal_hash))
    assert [(fault.kind, fault.subject) for fault in report.faults] == [(AuditFaultKind.ANCHOR_LOST, "3")]
    assert report.head is not None
    assert (await sealing.verify_audit_log(log, anchor=(1, report.head.seal_hash))).is_sound


async def test_the_application_can_alter_no_seal(log: Context) -> None:
    await write(log, 1)
    await sealing.seal_audit_log(log)
    for statement in (
        "UPDATE audit_seals SET row_count = 2",
        "UPDATE audit_sealed_rows SET seal_no = 2",
        "DELETE FROM audit_seals",
        "DELETE FROM audit_sealed_rows",
        "TRUNCATE audit_seals",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with log.transaction() as conn:
                await conn.execute(statement)


async def test_sealing_reads_only_the_rows_since_the_last_seal(
    log: Context, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await owner.execute(
        """
        INSERT INTO audit_log (id, at, actor_kind, action, resource_type, resource_id)
        SELECT lpad(to_hex(number), 32, '0')::uuid, now(), 'system', 'a', 'b', number
        FROM generate_series(1, 19990) AS number
        """
    )
    assert await sealing.seal_audit_log(log) == 19_990
    await owner.execute("ANALYZE")
    async with log.connection() as conn:
        head = await find_newest_seal(conn)
    since = sealing._horizon(head)
    for mode in PLAN_MODES:
        async with owner.transaction():
            plan = await plan_of(owner, mode, lambda: insert_sealed_rows(owner, seal_no=9, since=since, limit=100))  # type: ignore[arg-type]
        assert "Seq Scan on audit_log_default" not in plan, plan
