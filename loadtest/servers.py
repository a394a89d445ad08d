"""Real servers for the benchmarks: PostgreSQL with fsync on, Valkey and S3, each started when it is first asked for."""

import shutil
import tempfile
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType

import psycopg
from psycopg import sql

from zenzefi.devstack.embedded import EmbeddedServer
from zenzefi.devstack.postgres import EmbeddedPostgres
from zenzefi.devstack.provision import provision_database
from zenzefi.devstack.seaweedfs import EmbeddedSeaweedFS
from zenzefi.devstack.valkey import EmbeddedValkey
from zenzefi.infra.migrations import migrate_up
from zenzefi.settings import Settings

BUCKET = "zenzefi-bench"
_SECRET_KEY = "bench-only-secret-key-0123456789abcdefghij"  # noqa: S105  of servers that live for a benchmark
_PASSWORD = "zenzefi-bench"  # noqa: S105


class Servers:
    """The servers of one run, on loopback ports and in one folder, children of this process (its main thread)."""

    def __init__(self) -> None:
        """Make the folder: below TMPDIR, which decides on which disk is measured."""
        self.directory = Path(tempfile.mkdtemp(prefix="zenzefi-bench-"))
        self._running = ExitStack()

    def __enter__(self) -> "Servers":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._running.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    @cached_property
    def postgres(self) -> EmbeddedPostgres:
        """PostgreSQL; what it says is committed is on the disk."""
        postgres = EmbeddedPostgres(self.directory / "postgres", durable=True)
        self._start(postgres)
        return postgres

    @cached_property
    def valkey(self) -> EmbeddedValkey:
        """Valkey, with an append-only file as in production."""
        valkey = EmbeddedValkey(self.directory / "valkey")
        self._start(valkey)
        return valkey

    @cached_property
    def s3(self) -> EmbeddedSeaweedFS:
        """An S3 store with a bucket."""
        s3 = EmbeddedSeaweedFS(self.directory / "s3", bucket=BUCKET)
        self._start(s3)
        return s3

    def environment(self, name: str, **variables: str) -> dict[str, str]:
        """The variables of an installation with an empty, migrated database `name`; limits are off unless given.

        Raises DevStackError or MigrationError.
        """
        environment = {
            "ENVIRONMENT": "development",
            "SECRET_KEY": _SECRET_KEY,
            "RATE_LIMIT_AUTH": "off",
            "RATE_LIMIT_API": "off",
            "RATE_LIMIT_PROXY": "off",
            "WORKER_METRICS_PORT": "0",
            "POSTGRES_SERVER": self.postgres.host,
            "POSTGRES_PORT": str(self.postgres.port),
            "POSTGRES_USER": "zenzefi_bench",
            "POSTGRES_PASSWORD": _PASSWORD,
            "POSTGRES_OWNER_USER": "zenzefi_bench_owner",
            "POSTGRES_OWNER_PASSWORD": _PASSWORD,
            "POSTGRES_DB": name,
            "REDIS_HOST": self.valkey.host,
            "REDIS_PORT": str(self.valkey.port),
            "REDIS_PASSWORD": self.valkey.password,
            **variables,
        }
        settings = Settings.from_env(environment)
        self._drop_database(name)
        provision_database(self.postgres.dsn(), settings)
        migrate_up(settings)
        return environment

    def s3_variables(self) -> dict[str, str]:
        """The variables that name the S3 store, for environment()."""
        return {
            "S3_ENDPOINT_URL": self.s3.endpoint_url,
            "S3_BUCKET": self.s3.bucket,
            "S3_ACCESS_KEY": self.s3.access_key,
            "S3_SECRET_KEY": self.s3.secret_key,
        }

    def _start(self, server: EmbeddedServer) -> None:
        self._running.callback(server.stop)
        server.start()

    def _drop_database(self, name: str) -> None:
        with psycopg.connect(self.postgres.dsn(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
