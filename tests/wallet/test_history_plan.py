"""A page of history costs the same wherever it lies: the plans of the very statements that the service runs."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import cast
from uuid import UUID

import pytest
from asyncpg.connection import LoggedQuery

from tests.support.servers import Cluster
from zenzefi.infra.db import Connection
from zenzefi.wallet import queries
from zenzefi.wallet.models import TransactionType

ENTRIES = 5_000
OWNER = UUID(int=1)

# A statement that is prepared, as ours are, may be planned without its arguments after its fifth run.
plan_modes = pytest.mark.parametrize("plan_mode", ["force_custom_plan", "force_generic_plan"])


@pytest.fixture
async def long_history(cluster: Cluster, fresh_database: str) -> AsyncIterator[Connection]:
    """A connection to a ledger with one long history among others, in which one entry in a hundred is a refund."""
    connection = await cluster.connect(fresh_database)
    await connection.execute("SET session_replication_role = replica")
    await connection.execute(
        """
        INSERT INTO ledger_accounts (id, kind, user_id, balance, entry_count, created_at)
        SELECT owner, 'wallet', owner, 0, 0, now()
        FROM generate_series(1, 5) AS number, LATERAL (SELECT lpad(number::text, 32, '0')::uuid AS owner) AS owners
        """
    )
    await connection.execute(
        """
        WITH made AS (
            INSERT INTO ledger_transactions (id, transaction_type, description, created_at)
            SELECT
                encode(int8send(4194304 + entry) || decode(lpad(to_hex(wallet), 16, '0'), 'hex'), 'hex')::uuid,
                CASE WHEN entry % 100 = 0 THEN 'refund' ELSE 'deposit' END, 'entry ' || entry, now()
            FROM generate_series(1, $1::integer) AS entry, generate_series(1, 5) AS wallet
            RETURNING id, transaction_type
        )
        INSERT INTO ledger_postings (transaction_id, account_id, transaction_type, amount, entry_no, balance_after)
        SELECT
            id, lpad(right(id::text, 12)::integer::text, 32, '0')::uuid, transaction_type, 1,
            row_number() OVER (PARTITION BY right(id::text, 12) ORDER BY id), 0
        FROM made
        """,
        ENTRIES,
    )
    await connection.execute("ANALYZE")
    yield cast(Connection, connection)
    await connection.close()


async def _plan_of_the_query(conn: Connection, logged: list[LoggedQuery]) -> str:
    await asyncio.sleep(0)  # asyncpg calls its loggers in the next round of the loop
    (query,) = logged
    await conn.execute(f"PREPARE page AS {query.query}")
    arguments = ", ".join(f"'{argument}'" for argument in query.args)
    rows = await conn.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE page ({arguments})")
    return "\n".join(row[0] for row in rows)


@plan_modes
@pytest.mark.parametrize("before", [ENTRIES + 1, ENTRIES // 2, 200])
async def test_page_reads_only_its_own_rows(long_history: Connection, before: int, plan_mode: str) -> None:
    await long_history.execute(f"SET plan_cache_mode = {plan_mode}")
    logged: list[LoggedQuery] = []
    with long_history.query_logger(logged.append):
        entries = await queries.select_entries(long_history, user_id=OWNER, before_entry_no=before, limit=20)
    assert [entry.entry_no for entry in entries] == list(range(before - 1, before - 21, -1))
    plan = await _plan_of_the_query(long_history, logged)
    assert "account_id_entry_no_idx" in plan
    assert "Sort Method" not in plan
    assert _rows_scanned(plan) == 20


@plan_modes
async def test_page_of_one_type_reads_only_rows_of_that_type(long_history: Connection, plan_mode: str) -> None:
    await long_history.execute(f"SET plan_cache_mode = {plan_mode}")
    logged: list[LoggedQuery] = []
    with long_history.query_logger(logged.append):
        entries = await queries.select_entries_of_type(
            long_history, user_id=OWNER, transaction_type=TransactionType.REFUND, before_entry_no=4_000, limit=20
        )
    assert [entry.entry_no for entry in entries] == list(range(3_900, 1_900, -100))
    plan = await _plan_of_the_query(long_history, logged)
    assert "account_id_transaction_type_entry_n_idx" in plan
    assert _rows_scanned(plan) == 20


def _rows_scanned(plan: str) -> int:
    """How many rows the scans of postings handed up, and how many they read and threw away."""
    rows, in_postings = 0.0, False
    for line in plan.splitlines():
        if node := re.search(r"actual rows=([0-9.]+) loops=([0-9]+)", line):
            in_postings = "on ledger_postings" in line
            rows += float(node[1]) * int(node[2]) if in_postings else 0
        elif in_postings and (removed := re.search(r"Rows Removed by [A-Za-z ]+: ([0-9]+)", line)):
            rows += int(removed[1])
    return round(rows)
