"""Migrations run by many processes at once, and by processes that are killed."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import LiteralString

import pytest

from tests.migrations.conftest import Migrations, connect_as_superuser
from tests.support.servers import Cluster
from tests.support.serving import ROOT
from zenzefi.infra import migration_backend
from zenzefi.infra.migration_backend import Connection
from zenzefi.infra.migrations import MigrationError, check, expected_ids, migrate_up
from zenzefi.settings import Settings

_MIGRATE = "import sys; from pathlib import Path; from zenzefi.infra.migrations import migrate_up; \
from zenzefi.settings import Settings; migrate_up(Settings.from_env(), directory=Path(sys.argv[1]))"


def test_eight_processes_at_once_apply_each_migration_once(blank: Settings, blank_env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "zenzefi", "migrate", "up"]
    environment = {**os.environ, **blank_env}
    processes = [
        subprocess.Popen(
            command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for _ in range(8)
    ]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, outputs
    applied = [line for output in outputs for line in output.splitlines() if line.startswith("applied ")]
    assert sorted(applied) == [f"applied {migration_id}" for migration_id in expected_ids()]
    check(blank)


def test_a_killed_run_is_completed_by_the_next(
    blank: Settings, blank_env: dict[str, str], own: Migrations, superuser: Connection
) -> None:
    own.write("0001.first", "CREATE TABLE first (id integer);")
    own.write("0002.second", "CREATE TABLE second (id integer);\nSELECT pg_sleep(60);")
    with subprocess.Popen(
        [sys.executable, "-c", _MIGRATE, str(own.directory)], env={**os.environ, **blank_env}, cwd=ROOT
    ) as process:
        _wait_for_query(superuser, "%pg_sleep(60)%")
        process.send_signal(signal.SIGKILL)
    own.write("0002.second", "CREATE TABLE second (id integer);")
    assert migrate_up(blank, directory=own.directory, lock_wait_s=40) == ["0002.second"]
    check(blank, directory=own.directory)


def test_the_lock_row_of_a_killed_yoyo_is_cleared(blank: Settings, own: Migrations, superuser: Connection) -> None:
    superuser.execute(f"SET ROLE {blank.postgres_owner_user}")
    superuser.execute("CREATE TABLE yoyo_lock (locked integer DEFAULT 1 PRIMARY KEY, ctime timestamp, pid integer)")
    superuser.execute("INSERT INTO yoyo_lock (ctime, pid) VALUES (now(), 1)")
    own.write("0001.first", "CREATE TABLE first (id integer);")
    assert migrate_up(blank, directory=own.directory) == ["0001.first"]


def test_a_run_that_takes_too_long_is_named(
    blank: Settings, own: Migrations, superuser: Connection, cluster: Cluster
) -> None:
    own.write("0001.first", "SELECT pg_sleep(60);")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(migrate_up, blank, directory=own.directory)
        pid = _wait_for_query(superuser, "%pg_sleep(60)%")
        with connect_as_superuser(cluster) as elsewhere:  # where another database is being migrated
            elsewhere.execute("SELECT pg_advisory_lock(%s)", [migration_backend._LOCK_KEY])
            with pytest.raises(MigrationError, match=rf"pg_terminate_backend\({pid}\)"):
                migrate_up(blank, directory=own.directory, lock_wait_s=0.3)
        superuser.execute("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises(MigrationError, match=r"0001\.first.*run this again"):
            running.result(timeout=60)


def test_an_index_is_built_concurrently_while_others_wait_for_their_turn(
    blank: Settings, own: Migrations, superuser: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration_backend, "_TABLE_LOCK_TIMEOUT_S", 0.2)
    own.write("0001.first", "CREATE TABLE first AS SELECT generate_series(1, 1000) AS id;")
    migrate_up(blank, directory=own.directory)
    own.write(
        "0002.second",
        "-- transactional: false\n\nDROP INDEX CONCURRENTLY IF EXISTS first_id_idx;\n"
        "CREATE INDEX CONCURRENTLY first_id_idx ON first (id);",
    )
    with ThreadPoolExecutor(4) as pool:
        # It has to wait for a transaction whose snapshot is older than itself, for longer than others may.
        with superuser.transaction():
            superuser.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            superuser.execute("SELECT FROM first")
            runs = [pool.submit(migrate_up, blank, directory=own.directory) for _ in range(4)]
            time.sleep(1)
            assert [run.exception() for run in runs if run.done()] == []
        assert sorted(run.result(timeout=60) for run in runs) == [[], [], [], ["0002.second"]]
    valid = superuser.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'first_id_idx'::regclass").fetchone()
    assert valid == (True,)


def _wait_for_query(connection: Connection, pattern: str) -> int:
    """Return the pid of the backend that runs such a query."""
    query: LiteralString = (
        "SELECT pid FROM pg_stat_activity "
        "WHERE datname = current_database() AND state = 'active' AND query LIKE %s AND pid <> pg_backend_pid()"
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        row = connection.execute(query, [pattern]).fetchone()
        if row is not None:
            return int(row[0])
        time.sleep(0.02)
    raise AssertionError(f"no backend ran {pattern}")
