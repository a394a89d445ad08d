"""The migrations engine: applies once, refuses what was edited, and explains what went wrong."""

import shutil
from pathlib import Path

import psycopg
import pytest

from tests.migrations.conftest import Migrations, connect_as_application
from tests.migrations.schema import describe_schema
from tests.support.servers import Cluster
from zenzefi.infra import migration_backend
from zenzefi.infra.migration_backend import Connection
from zenzefi.infra.migrations import (
    MigrationError,
    MigrationState,
    check,
    expected_ids,
    find_migrations,
    may_rewrite_history,
    migrate_down,
    migrate_up,
    migration_status,
)
from zenzefi.settings import Settings


def test_migrations_are_applied_once(blank: Settings) -> None:
    assert {each.state for each in migration_status(blank)} == {MigrationState.PENDING}
    assert migrate_up(blank) == list(expected_ids())
    assert migrate_up(blank) == []
    check(blank)
    status = migration_status(blank)
    assert [each.id for each in status] == list(expected_ids())
    assert all(each.state is MigrationState.APPLIED and each.applied_at for each in status)


def test_each_rollback_undoes_its_migration_and_it_can_be_applied_again(
    blank: Settings, superuser: Connection, tmp_path: Path
) -> None:
    before = []
    for migration_id in expected_ids():
        before.append(describe_schema(superuser))
        for file in find_migrations().glob(f"{migration_id}.*"):
            shutil.copy(file, tmp_path)
        assert migrate_up(blank, directory=tmp_path) == [migration_id]
    whole = describe_schema(superuser)
    for migration_id, earlier in zip(reversed(expected_ids()), reversed(before), strict=True):
        assert migrate_down(blank) == migration_id
        assert _tables(describe_schema(superuser)) == _tables(earlier), migration_id
    assert migrate_down(blank) is None
    assert migrate_up(blank) == list(expected_ids())
    assert describe_schema(superuser) == whole


def _tables(schema: list[str]) -> list[str]:
    """Without the privileges on the schema itself: one that was granted and revoked leaves the others written out."""
    return [line for line in schema if not line.startswith("('schema'")]


def test_an_edited_migration_is_refused_by_name(blank: Settings, own: Migrations) -> None:
    own.write("0001.first", "CREATE TABLE first (id integer);")
    file = own.write("0002.second", "CREATE TABLE second (id integer);")
    migrate_up(blank, directory=own.directory)
    file.write_text("CREATE TABLE second (id bigint);")
    own.write("0003.third", "CREATE TABLE third (id integer);")
    for refused in (migrate_up, check):
        with pytest.raises(MigrationError, match=r"0002\.second.*new migration") as error:
            refused(blank, directory=own.directory)
        assert "0001.first" not in str(error.value)
    states = [each.state for each in migration_status(blank, directory=own.directory)]
    assert states == [MigrationState.APPLIED, MigrationState.EDITED, MigrationState.PENDING]


def test_line_ends_of_another_platform_are_no_edit(blank: Settings, own: Migrations) -> None:
    file = own.write("0001.first", "CREATE TABLE first (\n    id integer\n);\n")
    migrate_up(blank, directory=own.directory)
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    check(blank, directory=own.directory)


def test_check_names_what_is_pending(blank: Settings, own: Migrations) -> None:
    own.write("0001.first", "CREATE TABLE first (id integer);")
    with pytest.raises(MigrationError, match=r"0001\.first.*zenzefi migrate up"):
        check(blank, directory=own.directory)


def test_a_failed_migration_leaves_nothing_and_can_be_corrected(
    blank: Settings, own: Migrations, superuser: Connection
) -> None:
    own.write("0001.first", "CREATE TABLE first (id integer);")
    own.write("0002.second", "CREATE TABLE second (id integer);\nSELECT 1 / 0;")
    with pytest.raises(MigrationError, match=r"0002\.second: division by zero"):
        migrate_up(blank, directory=own.directory)
    states = [each.state for each in migration_status(blank, directory=own.directory)]
    assert states == [MigrationState.APPLIED, MigrationState.PENDING]
    assert superuser.execute("SELECT to_regclass('second')").fetchone() == (None,)
    own.write("0002.second", "CREATE TABLE second (id integer);")
    assert migrate_up(blank, directory=own.directory) == ["0002.second"]


def test_a_newer_database_passes_the_check_and_is_not_rolled_back(blank: Settings, own: Migrations) -> None:
    own.write("0001.first", "CREATE TABLE first (id integer);", rollback="DROP TABLE first;")
    newer = own.write("0002.second", "CREATE TABLE second (id integer);", rollback="DROP TABLE second;")
    migrate_up(blank, directory=own.directory)
    newer.unlink()
    check(blank, directory=own.directory)
    assert migration_status(blank, directory=own.directory)[1].state is MigrationState.UNKNOWN
    with pytest.raises(MigrationError, match=r"0002\.second came from a newer version"):
        migrate_down(blank, directory=own.directory)


def test_a_migration_that_cannot_be_read_is_named(blank: Settings, own: Migrations) -> None:
    own.write("0001.first", "-- depends: 0000.nothing\n\nCREATE TABLE first (id integer);")
    with pytest.raises(MigrationError, match=r"0001\.first"):
        migrate_up(blank, directory=own.directory)


def test_migrations_print_nothing(blank: Settings, own: Migrations, capsys: pytest.CaptureFixture[str]) -> None:
    own.write("0001.first", "SELECT 'a row of a migration';")
    migrate_up(blank, directory=own.directory)
    assert capsys.readouterr() == ("", "")


def test_a_busy_table_is_waited_for_briefly(
    blank: Settings, own: Migrations, superuser: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration_backend, "_TABLE_LOCK_TIMEOUT_S", 0.2)
    own.write("0001.first", "CREATE TABLE first (id integer);")
    migrate_up(blank, directory=own.directory)
    own.write("0002.second", "ALTER TABLE first ADD COLUMN name text;")
    with superuser.transaction():
        superuser.execute("SELECT FROM first")
        with pytest.raises(MigrationError, match="kept a table locked"):
            migrate_up(blank, directory=own.directory)
    assert migrate_up(blank, directory=own.directory) == ["0002.second"]


def test_the_application_cannot_alter_history(blank: Settings) -> None:
    migrate_up(blank)
    assert not may_rewrite_history(blank)
    with connect_as_application(blank) as connection:
        for table in ("ledger_transactions", "ledger_postings", "audit_log"):
            for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}", f"DROP TABLE {table}"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)
        for update in ("ledger_transactions SET description = ''", "ledger_postings SET amount = 1"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"UPDATE {update}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE audit_log SET action = ''")


def test_an_application_that_owns_the_tables_is_noticed(blank_env: dict[str, str], cluster: Cluster) -> None:
    login = {"POSTGRES_USER": cluster.owner, "POSTGRES_PASSWORD": blank_env["POSTGRES_OWNER_PASSWORD"]}
    settings = Settings.from_env(blank_env | login)
    migrate_up(settings)
    assert may_rewrite_history(settings)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"POSTGRES_OWNER_PASSWORD": "wrong"}, "password authentication failed.*POSTGRES_OWNER_PASSWORD"),
        ({"POSTGRES_DB": "no_such_database"}, 'database "no_such_database" does not exist.*POSTGRES_DB'),
        ({"POSTGRES_PORT": "1"}, "Connection refused.*POSTGRES_PORT"),
        ({"POSTGRES_USER": "nobody_such"}, "no such role.*CREATE ROLE"),
    ],
)
def test_what_is_wrong_with_the_server_is_explained(
    blank_env: dict[str, str], changed: dict[str, str], message: str
) -> None:
    with pytest.raises(MigrationError, match=message):
        migrate_up(Settings.from_env(blank_env | changed))


def test_an_owner_without_rights_is_told_what_to_do(blank_env: dict[str, str], cluster: Cluster) -> None:
    login = {"POSTGRES_OWNER_USER": cluster.app, "POSTGRES_OWNER_PASSWORD": blank_env["POSTGRES_PASSWORD"]}
    with pytest.raises(MigrationError, match=r"permission denied.*must own the database"):
        migrate_up(Settings.from_env(blank_env | login))
