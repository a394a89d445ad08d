"""PostgreSQL as every installation needs it."""

import asyncio
import time
from typing import Final

import asyncpg

from zenzefi.doctor.findings import Finding, fail, ok, warn
from zenzefi.errors import DatabaseUnavailable
from zenzefi.infra import migrations
from zenzefi.infra.db import Connection, open_database
from zenzefi.settings import Settings

OLDEST_POSTGRES: Final = 14
MAX_CLOCK_OFFSET_S: Final = 1.0


async def check_postgres(settings: Settings, *, as_owner: bool = True) -> list[Finding]:
    """Whether it answers, has our schema, protects the history, and agrees about the time.

    Without the owner's login (`as_owner`) nothing is known of migrations that were edited, only of those that wait.
    """
    try:
        async with open_database(settings) as database, database.connection() as conn:
            return [
                await _check_version(conn),
                await (_check_schema(settings) if as_owner else _check_applied(conn)),
                await _check_privileges(conn, settings),
                await _check_partitions(conn),
                await _check_clock(conn),
            ]
    except (DatabaseUnavailable, asyncpg.PostgresError) as error:
        return [fail("postgresql", str(error), "Start it, or correct the POSTGRES_… variables.")]


async def _check_version(conn: Connection) -> Finding:
    number = int(await conn.fetchval("SELECT current_setting('server_version_num')"))
    detail = f"version {number // 10_000}.{number % 10_000}"
    if number // 10_000 < OLDEST_POSTGRES:
        return fail("postgresql", detail, f"Upgrade PostgreSQL to {OLDEST_POSTGRES} or newer.")
    return ok("postgresql", detail)


async def _check_schema(settings: Settings) -> Finding:
    try:
        await asyncio.to_thread(migrations.check, settings)
    except migrations.MigrationError as error:
        return fail("schema", str(error), "zenzefi migrate up")
    return ok("schema", f"at head, {len(migrations.expected_ids())} migrations")


async def _check_applied(conn: Connection) -> Finding:
    if await conn.fetchval("SELECT to_regclass('public._yoyo_migration') IS NULL"):
        return fail("schema", "no migration is applied", "zenzefi migrate up")
    rows = await conn.fetch("SELECT migration_id FROM public._yoyo_migration")
    pending = sorted(set(migrations.expected_ids()) - {row["migration_id"] for row in rows})
    if pending:
        return fail("schema", f"Not applied yet: {', '.join(pending)}", "zenzefi migrate up")
    return ok("schema", f"at head, {len(migrations.expected_ids())} migrations")


async def _check_privileges(conn: Connection, settings: Settings) -> Finding:
    """The application adds to the ledger and the audit log; nothing of it may alter or remove their rows."""
    rows = await conn.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = ANY ($1) "
        "AND (has_table_privilege(oid, 'UPDATE, DELETE, TRUNCATE') OR has_any_column_privilege(oid, 'UPDATE'))",
        list(migrations.HISTORY_TABLES),
    )
    if not rows:
        return ok("privileges", f"{settings.postgres_user} can only add to the ledger and the audit log")
    detail = f"{settings.postgres_user} can alter {', '.join(sorted(row['relname'] for row in rows))}"
    fix = (
        "Let the application log in as a role that is neither their owner nor a superuser (POSTGRES_USER), name the "
        "owner in POSTGRES_OWNER_USER, and run: zenzefi migrate up"
    )
    return warn("privileges", detail, fix) if settings.is_development else fail("privileges", detail, fix)


async def _check_partitions(conn: Connection) -> Finding:
    missing = await conn.fetch(
        "SELECT c.relname FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid "
        "WHERE c.relnamespace = 'public'::regnamespace AND to_regclass(format('public.%I', c.relname || "
        "to_char((now() AT TIME ZONE 'UTC') + interval '1 month', '_YYYY_MM'))) IS NULL"
    )
    if missing:
        detail = f"next month's are missing: {', '.join(sorted(row['relname'] for row in missing))}"
        return warn("partitions", detail, "Run a worker (zenzefi worker): it makes them each day.")
    return ok("partitions", "made ahead")


async def _check_clock(conn: Connection) -> Finding:
    asked = time.time()
    theirs = (await conn.fetchval("SELECT clock_timestamp()")).timestamp()
    offset_s = theirs - (asked + time.time()) / 2
    detail = f"the database's is {offset_s:+.3f} s from this machine's"
    if abs(offset_s) > MAX_CLOCK_OFFSET_S:
        fix = "Synchronise both machines with NTP. Tokens go by the database's clock; jobs and logs go by this one."
        return warn("clock", detail, fix)
    return ok("clock", detail)
