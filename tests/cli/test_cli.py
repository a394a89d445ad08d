"""The command line: results on standard output, one clear line for what goes wrong, exit codes 0, 1 and 2."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from openapi_spec_validator import validate

import zenzefi
from tests.cli.conftest import RunCli, assert_one_clear_line
from tests.support.serving import ROOT
from zenzefi.devstack.ports import find_free_port
from zenzefi.infra.migrations import expected_ids

PASSWORD = "correct horse battery staple"


def test_version(run_cli: RunCli) -> None:
    finished = run_cli("--version")
    assert (finished.returncode, finished.stdout) == (0, f"zenzefi, version {zenzefi.__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("unknown",),
        ("serve", "--processes", "0"),
        ("serve", "--processes", "many"),
        ("doctor", "--unknown"),
        ("worker", "--queue", "light"),
        ("create-superuser", "--email", "admin@example.com"),
        ("migrate",),
    ],
)
def test_wrong_usage_is_2(run_cli: RunCli, arguments: tuple[str, ...]) -> None:
    finished = run_cli(*arguments)
    assert finished.returncode == 2
    assert "Usage:" in finished.stderr


@pytest.mark.parametrize("command", ["serve", "worker", "migrate up", "migrate status", "migrate check"])
def test_a_missing_setting_is_named(run_cli: RunCli, command: str) -> None:
    assert_one_clear_line(run_cli(*command.split()), "SECRET_KEY", "openssl rand -hex 32")


@pytest.mark.parametrize("command", ["migrate up", "migrate check", "create-superuser"])
def test_a_server_that_cannot_be_reached_is_named(run_cli: RunCli, env: dict[str, str], command: str) -> None:
    port = find_free_port()
    who = ("--email", "admin@example.com", "--username", "admin", "--password-stdin")
    arguments = (*command.split(), *(who if command == "create-superuser" else ()))
    finished = run_cli(*arguments, env=env | {"POSTGRES_PORT": str(port)}, typed=f"{PASSWORD}\n")
    assert_one_clear_line(finished, f"{env['POSTGRES_SERVER']}:{port}", "POSTGRES_PORT")


def test_a_wrong_password_of_the_database_is_told_and_not_repeated(run_cli: RunCli, env: dict[str, str]) -> None:
    wrong = {"POSTGRES_OWNER_PASSWORD": "not-the-password"}
    finished = run_cli("migrate", "up", env=env | wrong)
    assert_one_clear_line(finished, "password authentication failed", "POSTGRES_OWNER_PASSWORD")
    assert "not-the-password" not in finished.stderr


def test_a_port_in_use_is_named(run_cli: RunCli, env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"PORT": str(port), "INTERNAL_PORT": str(find_free_port())}
        finished = run_cli("serve", env=env | ports)
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    assert str(port) in finished.stderr
    assert "PORT" in finished.stderr


def test_a_superuser_is_made_once(run_cli: RunCli, env: dict[str, str]) -> None:
    name = f"admin-{uuid4().hex[:12]}"
    command = ("create-superuser", "--email", f"{name}@example.com", "--username", name, "--password-stdin")
    made = run_cli(*command, env=env, typed=f"{PASSWORD}\n")
    assert (made.returncode, made.stdout) == (0, f"The superuser {name}@example.com is ready.\n"), made.stderr
    assert_one_clear_line(run_cli(*command, env=env, typed=f"{PASSWORD}\n"), "email")
    again = run_cli(*command, "--if-missing", env=env, typed="another password entirely\n")
    assert (again.returncode, again.stdout) == (0, made.stdout)


def test_a_superuser_that_cannot_be_is_refused_by_field(run_cli: RunCli, env: dict[str, str]) -> None:
    command = ("create-superuser", "--email", "nobody", "--username", "%", "--password-stdin")
    assert_one_clear_line(run_cli(*command, env=env, typed="short\n"), "email:", "username:", "password:")


def test_a_password_is_not_asked_for_without_a_terminal(run_cli: RunCli, env: dict[str, str]) -> None:
    finished = run_cli("create-superuser", "--email", "a@example.com", "--username", "admin", env=env)
    assert finished.returncode == 2
    assert "--password-stdin" in finished.stderr


def test_openapi_is_exported_without_settings_and_servers(run_cli: RunCli, tmp_path: Path) -> None:
    finished = run_cli("openapi", "export")
    assert finished.returncode == 0, finished.stderr
    document = json.loads(finished.stdout)
    assert document["openapi"].startswith("3.1")
    assert "/health" in document["paths"]
    validate(document)
    file = tmp_path / "openapi.json"
    assert run_cli("openapi", "export", "--output", str(file)).stdout == ""
    assert json.loads(file.read_text()) == document


def test_a_file_that_cannot_be_written_is_named(run_cli: RunCli, tmp_path: Path) -> None:
    finished = run_cli("openapi", "export", "--output", str(tmp_path / "missing" / "openapi.json"))
    assert finished.returncode in (1, 2)
    assert "openapi.json" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_migrations_are_listed(run_cli: RunCli, env: dict[str, str]) -> None:
    plain = run_cli("migrate", "status", env=env)
    assert [line.split("\t")[:2] for line in plain.stdout.splitlines()] == [["applied", id_] for id_ in expected_ids()]
    as_json = run_cli("migrate", "status", "--json", env=env)
    documents = json.loads(as_json.stdout)["migrations"]
    assert [(each["id"], each["state"]) for each in documents] == [(id_, "applied") for id_ in expected_ids()]
    assert run_cli("migrate", "check", env=env).returncode == 0


def test_a_migration_is_rolled_back_only_when_it_is_confirmed(
    run_cli: RunCli, env: dict[str, str], fresh_database: str
) -> None:
    own = env | {"POSTGRES_DB": fresh_database}
    newest = expected_ids()[-1]
    assert run_cli("migrate", "down", env=own, typed="n\n").returncode == 1
    assert run_cli("migrate", "check", env=own).returncode == 0
    assert run_cli("migrate", "down", "--yes", env=own).stdout == f"rolled back {newest}\n"
    assert_one_clear_line(run_cli("migrate", "check", env=own), newest, "zenzefi migrate up")
    assert run_cli("migrate", "up", env=own).stdout == f"applied {newest}\n"
    assert run_cli("migrate", "up", env=own).stdout == "The schema is up to date.\n"


def test_an_application_that_may_alter_history_is_warned_of(run_cli: RunCli, env: dict[str, str]) -> None:
    owner = {"POSTGRES_USER": env["POSTGRES_OWNER_USER"], "POSTGRES_PASSWORD": env["POSTGRES_OWNER_PASSWORD"]}
    finished = run_cli("migrate", "up", env=env | owner)
    assert finished.returncode == 0
    assert finished.stdout == "The schema is up to date.\n"
    assert "POSTGRES_OWNER_USER" in finished.stderr


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"'{sys.executable}' -m zenzefi openapi export | head -c 10"
    finished = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (finished.returncode, finished.stderr) == (0, "")
