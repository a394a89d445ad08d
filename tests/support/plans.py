"""The plan of the very statement that the product runs."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a statement was carried out, and how many pages of 8 KiB were looked at for that."""

    text: str
    rows: int
    buffers: int


async def plan_of(conn: Connection, mode: str, run: Callable[[], Awaitable[object]]) -> str:
    """Run what makes one query on the connection, and explain that query as it is planned in this mode."""
    return await _explain(conn, mode, run, options="COSTS OFF")


async def explain(conn: Connection, mode: str, run: Callable[[], Awaitable[object]]) -> Plan:
    """As ``plan_of``, with what it took."""
    text = await _explain(conn, mode, run, options="ANALYZE, BUFFERS, COSTS OFF, TIMING OFF")
    # What comes first is said of the topmost node, which counts what all below it did.
    rows, buffers = re.search(r"actual rows=([0-9]+)", text), re.search(r"Buffers: shared (.*)", text)
    assert rows is not None, text
    assert buffers is not None, text
    return Plan(text=text, rows=int(rows[1]), buffers=sum(map(int, re.findall(r"(?:hit|read)=([0-9]+)", buffers[1]))))


async def _explain(conn: Connection, mode: str, run: Callable[[], Awaitable[object]], *, options: str) -> str:
    logged: list[LoggedQuery] = []
    with conn.query_logger(logged.append):
        await run()
        await asyncio.sleep(0)  # asyncpg calls its loggers in the next round of the loop
    (query,) = logged
    await conn.execute(f"SET plan_cache_mode = {mode}")
    await conn.execute(f"PREPARE plan_of AS {query.query}")
    arguments = ", ".join(f"'{argument}'" for argument in query.args)
    try:
        rows: list[asyncpg.Record] = await conn.fetch(f"EXPLAIN ({options}) EXECUTE plan_of ({arguments})")
    finally:
        await conn.execute("DEALLOCATE plan_of")
    return "\n".join(row[0] for row in rows)
