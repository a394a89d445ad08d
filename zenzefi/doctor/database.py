"""What production demands of PostgreSQL: little for the application's login, and that what it commits stays."""

from contextlib import suppress
from typing import Final

import asyncpg
from redis.exceptions import RedisError

from zenzefi.doctor.addresses import is_beside_us
from zenzefi.doctor.findings import Finding, fail, ok, warn
from zenzefi.errors import DatabaseUnavailable, RedisUnavailable
from zenzefi.infra.db import Connection, open_database
from zenzefi.infra.queue import JobQueue
from zenzefi.jobs import Queue
from zenzefi.settings import Settings

# For migrations, a backup with its verification, an exporter, and a person with psql.
SPARE_CONNECTIONS: Final = 10
MANY_SUPERUSERS: Final = 5
_DURABLE: Final = {
    "fsync": ("on",),
    "full_page_writes": ("on",),
    # All that wait for this server's own disk at least.
    "synchronous_commit": ("on", "local", "remote_write", "remote_apply"),
}


async def check_database(settings: Settings) -> list[Finding]:
    """Look at the login, the durability and the room; a server that cannot be reached is told of elsewhere."""
    with suppress(DatabaseUnavailable, asyncpg.PostgresError):
        async with open_database(settings) as database, database.connection() as conn:
            return [
                await _check_role(conn),
                await _check_encryption(conn, settings),
                await _check_durability(conn),
                await _check_connections(conn, settings),
                await _check_superusers(conn),
            ]
    return []


async def _check_role(conn: Connection) -> Finding:
    """The application reads and writes rows; whoever gets hold of its login should be able to do no more."""
    row = await conn.fetchrow(
        "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, "
        "has_database_privilege(current_database(), 'CREATE') AS creates_schemas, "
        "has_schema_privilege('public', 'CREATE') AS creates_tables, "
        "EXISTS (SELECT FROM pg_class WHERE relowner = pg_roles.oid AND relnamespace = 'public'::regnamespace) AS owns "
        "FROM pg_roles WHERE rolname = current_user"
    )
    assert row is not None
    powers = {
        "rolsuper": "is a superuser",
        "rolcreaterole": "makes roles",
        "rolcreatedb": "makes databases",
        "rolreplication": "reads the replication stream",
        "rolbypassrls": "bypasses row security",
        "creates_schemas": "makes schemas",
        "creates_tables": "makes tables",
        "owns": "owns tables",
    }
    has = [words for column, words in powers.items() if row[column]]
    if has:
        fix = (
            "ALTER ROLE it NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS, REVOKE CREATE ON SCHEMA "
            "public FROM PUBLIC, and have POSTGRES_OWNER_USER own the database."
        )
        return fail("database role", f"{row['rolname']} {', '.join(has)}", fix)
    return ok("database role", f"{row['rolname']} reads and writes rows, and can do nothing else")


async def _check_encryption(conn: Connection, settings: Settings) -> Finding:
    encrypted = await conn.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    if encrypted:
        return ok("database encryption", "TLS")
    if is_beside_us(settings.postgres_server):
        return ok("database encryption", "none, and none needed on this machine")
    fix = "Set PGSSLMODE=verify-full and PGSSLROOTCERT, unless nobody else has a machine in that network."
    return warn("database encryption", f"the sessions with {settings.postgres_server} are not encrypted", fix)


async def _check_durability(conn: Connection) -> Finding:
    found = {name: str(await conn.fetchval("SELECT current_setting($1)", name)) for name in _DURABLE}
    wrong = [f"{name}={value}" for name, value in found.items() if value not in _DURABLE[name]]
    if wrong:
        detail = f"{', '.join(wrong)}: a crash loses payments that were acknowledged"
        return fail("durability", detail, "ALTER SYSTEM RESET each, and SELECT pg_reload_conf().")
    return ok("durability", ", ".join(f"{name}={value}" for name, value in found.items()))


async def _check_connections(conn: Connection, settings: Settings) -> Finding:
    """All pools, filled, beside what others need: a server without room refuses whoever comes last."""
    pooled = (settings.postgres_server, settings.postgres_port) != (
        settings.postgres_direct_server,
        settings.postgres_direct_port,
    )
    if pooled:
        return ok("connections", "PgBouncer shares them out")
    room = await conn.fetchval(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    )
    limit = await conn.fetchval("SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user")
    workers = await _count_workers(settings)
    # One more: a rolling restart starts each successor before its predecessor leaves.
    processes = settings.rate_limit_processes + 1 + workers
    needed = processes * settings.postgres_pool_size
    detail = f"{processes} processes with {settings.postgres_pool_size} each"
    if needed + SPARE_CONNECTIONS > room or -1 < limit < needed:
        fix = f"Lower POSTGRES_POOL_SIZE, raise max_connections to {needed + SPARE_CONNECTIONS + 3}, or use PgBouncer."
        most = room if limit == -1 else min(room, limit)
        return fail(
            "connections", f"{detail}, and {SPARE_CONNECTIONS} to spare, are more than the {most} there are", fix
        )
    return ok("connections", f"{detail}, of {room}")


async def _count_workers(settings: Settings) -> int:
    """Those that live now, and one of each queue at the least."""
    queue = JobQueue(settings)
    try:
        state = await queue.read_state()
    except (RedisError, RedisUnavailable, OSError):
        return len(Queue)
    finally:
        await queue.aclose()
    return sum(max(1, state[queue].workers) for queue in Queue)


async def _check_superusers(conn: Connection) -> Finding:
    count = await conn.fetchval("SELECT count(*) FROM users WHERE is_superuser AND is_active")
    if not count:
        return warn("superusers", "none: nobody can administer", "zenzefi create-superuser")
    if count > MANY_SUPERUSERS:
        detail = f"{count}: each of their passwords opens everything"
        return warn("superusers", detail, "Take it from those who do not need it: PATCH /api/v1/admin/users/{id}.")
    return ok("superusers", str(count))
