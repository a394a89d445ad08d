"""The plan of the very statement that the product runs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import asyncpg
from asyncpg.connection import LoggedQuery

from tests.support.servers import Cluster
from zenzefi.infra.db import Connection

# A statement that is prepared, as ours are, may be planned without its arguments after its fifth run.
PLAN_MODES = ("force_custom_plan", "force_generic_plan")


@asynccontextmanager
async def filled_database(cluster: Cluster, database: str, *statements: str) -> AsyncIterator[Connection]:
    """A superuser's connection to a database that these statements filled behind all constraints' back."""
    connection = await cluster.connect(database)
    try:
        await connection.execute("SET session_replication_role = replica")
        for statement in statements:
            await connection.execute(statement)
        await connection.execute("ANALYZE")
        yield cast(Connection, connection)
    finally:
        await connection.close()


async def plan_of(conn: Connection, mode: str, run: Callable[[], Awaitable[object]]) -> str:
    """Run what makes one query on the connection, and explain that query as it is planned in this mode."""
    logged: list[LoggedQuery] = []
    with conn.query_logger(logged.append):
        await run()
        await asyncio.sleep(0)  # asyncpg calls its loggers in the next round of the loop
    (query,) = logged
    await conn.execute(f"SET plan_cache_mode = {mode}")
    await conn.execute(f"PREPARE plan_of AS {query.query}")
    arguments = ", ".join(f"'{argument}'" for argument in query.args)
    try:
        rows: list[asyncpg.Record] = await conn.fetch(f"EXPLAIN (COSTS OFF) EXECUTE plan_of ({arguments})")
    finally:
        await conn.execute("DEALLOCATE plan_of")
    return "\n".join(row[0] for row in rows)
