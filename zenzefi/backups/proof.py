"""What a database holds, in a form that its restored copy must show again.

A table's digest adds up the rows' SHA-256, modulo nothing: the order of rows has no part in it, a row that is twice
there counts twice (unlike with XOR), and each changed value changes it (AdHash: Bellare and Micciancio, 1997).
PostgreSQL computes it where the rows are: 60 to 170 MB/s of table, no memory to speak of.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import LiteralString

from asyncpg import Record

from zenzefi.backups.connections import DirectConnection
from zenzefi.backups.models import SnapshotProof, TableProof
from zenzefi.backups.schema_queries import SCHEMA_QUERIES, SEQUENCE_VALUES, TABLES
from zenzefi.infra.migrations import MIGRATION_TABLE

# OFFSET 0 keeps the planner from merging the levels and so from hashing each row twice. Two sums of 64 bits are added
# in 128-bit integers, which no number of rows overflows. Without the asterisk a
# column of the alias's name would go before the row.
_DIGEST: LiteralString = """
SELECT count(*) AS rows,
    coalesce(sum(('x' || substr(hash, 1, 16))::bit(64)::bigint), 0)::text AS high,
    coalesce(sum(('x' || substr(hash, 17, 16))::bit(64)::bigint), 0)::text AS low
FROM (
    SELECT encode(sha256(convert_to((content.*)::text, 'UTF8')), 'hex') AS hash FROM ONLY {table} AS content OFFSET 0
) AS hashes
"""


async def take_proof(connection: DirectConnection) -> SnapshotProof:
    """Read a whole database once. Inside a REPEATABLE READ transaction it is that of the transaction's snapshot.

    The connection must be one of `open_direct`: it spells values the same way everywhere.
    """
    # First: sequences are outside of snapshots, and what is dumped later has come further.
    sequences = {row["name"]: int(row["reached"]) for row in await connection.fetch(SEQUENCE_VALUES)}
    migration_head = await _find_migration_head(connection)
    schema = {kind: _digest_lines(await connection.fetch(query)) for kind, query in SCHEMA_QUERIES.items()}
    tables = {row["name"]: await _prove_table(connection, row["name"]) for row in await connection.fetch(TABLES)}
    return SnapshotProof(migration_head=migration_head, tables=tables, sequences=sequences, schema=schema)


def differences(expected: SnapshotProof, found: SnapshotProof) -> list[str]:
    """In what the found database is not the expected one, a line each; nothing means that it is proven equal."""
    lines = [f"the schema differs in its {kind}" for kind in _differing(expected.schema, found.schema)]
    if expected.migration_head != found.migration_head:
        lines.append(f"the newest migration is {found.migration_head} instead of {expected.migration_head}")
    lines += [
        f"{name}: {_compare_tables(expected.tables.get(name), found.tables.get(name))}"
        for name in _differing(expected.tables, found.tables)
    ]
    lines += [
        f"{name}: the sequence has not come as far as it had"
        for name, reached in sorted(expected.sequences.items())
        if found.sequences.get(name, reached - 1) < reached
    ]
    return lines


def _differing(expected: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def _compare_tables(expected: TableProof | None, found: TableProof | None) -> str:
    if expected is None:
        return "the table should not be there"
    if found is None:
        return "the table is missing"
    if expected.rows != found.rows:
        return f"{found.rows} rows instead of {expected.rows}"
    return f"its {found.rows} rows are not the same"


async def _find_migration_head(connection: DirectConnection) -> str | None:
    if await connection.fetchval("SELECT to_regclass($1)", f"public.{MIGRATION_TABLE}") is None:
        return None
    head: str | None = await connection.fetchval(f"SELECT max(migration_id) FROM public.{MIGRATION_TABLE}")  # noqa: S608
    return head


async def _prove_table(connection: DirectConnection, table: str) -> TableProof:
    row = await connection.fetchrow(_DIGEST.format(table=table))  # a name that quote_ident wrote
    assert row is not None
    return TableProof(rows=row["rows"], digest=f"{row['high']}:{row['low']}")


def _digest_lines(rows: Iterable[Record]) -> str:
    lines = sorted(str(row[0]) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
