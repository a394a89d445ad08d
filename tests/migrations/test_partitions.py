"""Partitions made ahead by the application, which owns no table."""

from collections.abc import Iterator
from datetime import UTC, datetime

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


def test_the_application_can_make_no_other_table(application: Connection) -> None:
    for statement in (
        "SELECT create_month_partitions('audit_log', now() + interval '5 years', 1)",
        "CREATE TABLE mine (id integer)",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            application.execute(statement)
