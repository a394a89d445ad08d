"""Partitions made ahead by the application, which owns no table."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.migrations.conftest import connect_as_application
from zenzefi.infra.migration_backend import Connection
from zenzefi.infra.migrations import migrate_up
from zenzefi.settings import Settings


@pytest.fixture
def application(blank: Settings) -> Iterator[Connection]:
    migrate_up(blank)
    with connect_as_application(blank) as connection:
        yield connection


def _month(*, ahead: int) -> str:
    now = datetime.now(UTC)
    year, month = divmod(now.year * 12 + now.month - 1 + ahead, 12)
    return f"{year}_{month + 1:02}"


def _make(connection: Connection) -> int:
    row = connection.execute("SELECT make_partitions_ahead()").fetchone()
    assert row is not None
    return int(row[0])


def test_missing_partitions_are_made(application: Connection, superuser: Connection) -> None:
    assert _make(application) == 0
    superuser.execute(f"DROP TABLE audit_log_{_month(ahead=2)}, usage_batches_{_month(ahead=1)}")
    assert _make(application) == 2
    assert _make(application) == 0


def test_a_month_that_the_default_partition_holds_rows_of_is_left_out(
    application: Connection, superuser: Connection
) -> None:
    for ahead in (1, 2):
        superuser.execute(f"DROP TABLE audit_log_{_month(ahead=ahead)}")
    superuser.execute(
        "INSERT INTO audit_log (id, at, actor_kind, action, resource_type, resource_id) "
        "VALUES (uuid7_floor(now() + interval '1 month'), now(), 'system', 'a.b', 'a', '1')"
    )
    assert _make(application) == 1
    assert application.execute("SELECT count(*) FROM audit_log").fetchone() == (1,)
    assert application.execute(f"SELECT to_regclass('audit_log_{_month(ahead=2)}') IS NOT NULL").fetchone() == (True,)


def _empty(connection: Connection) -> int:
    row = connection.execute("SELECT empty_default_partitions()").fetchone()
    assert row is not None
    return int(row[0])


def _kinds_of(superuser: Connection, table: str) -> list[tuple[object, ...]]:
    """What a partition has: its bounds aside, that is what all of its parent's have."""
    return superuser.execute(
        "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute "
        "WHERE attrelid = %(table)s::regclass AND attnum > 0 "
        "UNION ALL SELECT contype::text, pg_get_constraintdef(oid), convalidated FROM pg_constraint "
        "WHERE conrelid = %(table)s::regclass "
        "UNION ALL SELECT 'index', regexp_replace(pg_get_indexdef(indexrelid), '^.* USING', ''), indisvalid "
        "FROM pg_index WHERE indrelid = %(table)s::regclass "
        "UNION ALL SELECT tgname::text, tgtype::text, tgdeferrable FROM pg_trigger "
        "WHERE tgrelid = %(table)s::regclass AND NOT tgisinternal "
        "ORDER BY 1, 2",
        {"table": table},
    ).fetchall()


def test_rows_that_came_too_early_get_a_partition_of_their_own(application: Connection, superuser: Connection) -> None:
    year_ago = datetime.now(UTC).replace(day=1) - timedelta(days=365)
    old, late = f"{year_ago:%Y_%m}", _month(ahead=1)
    superuser.execute(
        "INSERT INTO audit_log (id, at, actor_kind, action, resource_type, resource_id) "
        "SELECT uuid7_floor(%s::timestamptz + n * interval '1 hour'), now(), 'system', 'a.b', 'a', n "
        "FROM generate_series(1, 5) AS n",
        [year_ago],
    )
    for table in ("usage_hourly", "usage_daily", "usage_batches"):
        superuser.execute(f"DROP TABLE {table}_{late}")
    superuser.execute(
        "INSERT INTO usage_hourly VALUES (gen_random_uuid(), date_trunc('month', now() + interval '1 month'), "
        "gen_random_uuid(), 'ok', 1, 2, 3)"
    )
    superuser.execute(
        "INSERT INTO usage_daily VALUES (gen_random_uuid(), date_trunc('month', now() + interval '1 month'), "
        "gen_random_uuid(), 'ok', 1, 2, 3)"
    )
    # Of no month, and of one to which others point: both stay.
    superuser.execute(
        "INSERT INTO audit_log (id, at, actor_kind, action, resource_type, resource_id) "
        "VALUES ('ffffffff-ffff-4fff-bfff-ffffffffffff', now(), 'system', 'a.b', 'a', '1')"
    )
    superuser.execute(
        "INSERT INTO ledger_transactions (id, transaction_type, description, created_at) "
        "VALUES (uuid7_floor(%s), 'deposit', 'old', now())",
        [year_ago],
    )

    # A month of a table at a time, each in a transaction of its own.
    assert [_empty(application) for _ in range(4)] == [5, 1, 1, 0]

    for table, rows in ((f"audit_log_{old}", 5), (f"usage_hourly_{late}", 1), (f"usage_daily_{late}", 1)):
        assert superuser.execute(f"SELECT count(*) FROM {table}").fetchone() == (rows,)
        sibling = table.replace(old, _month(ahead=0)).replace(late, _month(ahead=0))
        assert _kinds_of(superuser, table) == _kinds_of(superuser, sibling)
    for table in ("audit_log", "ledger_transactions"):
        assert superuser.execute(f"SELECT count(*) FROM {table}_default").fetchone() == (1,)
    assert _make(application) == 1  # that of the batches, of which there was no row
    assert superuser.execute("SELECT count(*) FROM audit_log").fetchone() == (6,)


def test_a_busy_default_partition_is_left_to_the_next_run(
    application: Connection, superuser: Connection, blank: Settings
) -> None:
    superuser.execute(
        "INSERT INTO audit_log (id, at, actor_kind, action, resource_type, resource_id) "
        "VALUES (uuid7_floor('2025-01-31 23:59:59.999Z'), now(), 'system', 'a.b', 'a', '1')"
    )
    with connect_as_application(blank) as reader:
        with reader.transaction():
            reader.execute("SELECT count(*) FROM audit_log")
            assert _empty(application) == 0
            assert application.execute("SELECT to_regclass('audit_log_2025_01')").fetchone() == (None,)
        assert _empty(application) == 1


def test_the_application_can_make_no_other_table(application: Connection) -> None:
    for statement in (
        "SELECT create_month_partitions('audit_log', now() + interval '5 years', 1)",
        "SELECT move_default_rows('audit_log', now() + interval '5 years')",
        "CREATE TABLE mine (id integer)",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            application.execute(statement)
