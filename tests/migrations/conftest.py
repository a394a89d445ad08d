"""An empty database for each test, and a place for migrations of its own."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.support.servers import SECRET_KEY, Cluster
from zenzefi.infra.migration_backend import Connection
from zenzefi.settings import Settings


def connect_as_superuser(cluster: Cluster, database: str = "postgres") -> Connection:
    return psycopg.connect(
        host=cluster.host,
        port=cluster.port,
        user=cluster.user,
        password=cluster.password,
        dbname=database,
        autocommit=True,
    )


def connect_as_application(settings: Settings) -> Connection:
    return psycopg.connect(
        host=settings.postgres_server,
        port=settings.postgres_port,
        user=settings.postgres_user,
        password=settings.postgres_password,
        dbname=settings.postgres_db,
        autocommit=True,
    )


@pytest.fixture
def blank_env(cluster: Cluster) -> Iterator[dict[str, str]]:
    """The variables of an installation whose database is empty."""
    name = f"zenzefi_test_{cluster.run}_{uuid4().hex[:8]}"
    with connect_as_superuser(cluster) as connection:
        connection.execute(f"CREATE DATABASE {name} OWNER {cluster.owner}")
        yield {"ENVIRONMENT": "development", "SECRET_KEY": SECRET_KEY, **cluster.settings_env(name)}
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def blank(blank_env: dict[str, str]) -> Settings:
    """The same as Settings."""
    return Settings.from_env(blank_env)


class Migrations:
    """A directory of migrations that a test writes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, migration_id: str, statements: str, *, rollback: str = "") -> Path:
        file = self.directory / f"{migration_id}.sql"
        file.write_text(statements)
        (self.directory / f"{migration_id}.rollback.sql").write_text(rollback)
        return file


@pytest.fixture
def own(tmp_path: Path) -> Migrations:
    """Migrations of the test's own."""
    return Migrations(tmp_path)


@pytest.fixture
def superuser(cluster: Cluster, blank: Settings) -> Iterator[Connection]:
    """A superuser's connection to the test's database."""
    with connect_as_superuser(cluster, blank.postgres_db) as connection:
        yield connection
