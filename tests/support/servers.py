"""PostgreSQL and Valkey for the tests: embedded, or those that POSTGRES_SERVER and REDIS_HOST name.

The PostgreSQL cluster is started once per run, by pytest's main process; each xdist worker has a database of its own,
cloned from a migrated template, and a Valkey of its own. They die with the process that started them.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg

from tests.support.serving import PATIENT
from zenzefi.devstack.postgres import EmbeddedPostgres
from zenzefi.devstack.valkey import EmbeddedValkey
from zenzefi.infra.migrations import migrate_up
from zenzefi.settings import Settings

SECRET_KEY = "tests-only-secret-key-0123456789abcdefghij"
OWNER_PREFIX = "zenzefi_test_owner"
APP_PREFIX = "zenzefi_test_app"
PASSWORD = "zenzefi-test-password"
# How the main process tells the workers where the cluster is.
_VARIABLE = "ZENZEFI_TEST_CLUSTER"


class Cluster:
    """A PostgreSQL cluster and the superuser's way into it."""

    def __init__(self, *, host: str, port: int, user: str, password: str, run: str) -> None:
        self.host, self.port, self.user, self.password, self.run = host, port, user, password, run

    @property
    def owner(self) -> str:
        return f"{OWNER_PREFIX}_{self.run}"

    @property
    def app(self) -> str:
        return f"{APP_PREFIX}_{self.run}"

    @property
    def template(self) -> str:
        return f"zenzefi_test_{self.run}_template"

    def export(self) -> None:
        os.environ[_VARIABLE] = "\n".join((self.host, str(self.port), self.user, self.password, self.run))

    @classmethod
    def inherited(cls) -> "Cluster":
        host, port, user, password, run = os.environ[_VARIABLE].split("\n")
        return cls(host=host, port=int(port), user=user, password=password, run=run)

    def settings_env(self, database: str) -> dict[str, str]:
        return {
            "POSTGRES_SERVER": self.host,
            "POSTGRES_PORT": str(self.port),
            "POSTGRES_USER": self.app,
            "POSTGRES_PASSWORD": PASSWORD,
            "POSTGRES_OWNER_USER": self.owner,
            "POSTGRES_OWNER_PASSWORD": PASSWORD,
            "POSTGRES_DB": database,
        }

    async def connect(self, database: str = "postgres") -> "asyncpg.Connection[asyncpg.Record]":
        """A superuser's connection."""
        return await asyncpg.connect(
            host=self.host, port=self.port, user=self.user, password=self.password, database=database
        )

    async def prepare(self) -> None:
        """Make the roles and the migrated template."""
        connection = await self.connect()
        try:
            await connection.execute(f"CREATE ROLE {self.owner} LOGIN CREATEDB CREATEROLE PASSWORD '{PASSWORD}'")
            await connection.execute(f"GRANT pg_signal_backend TO {self.owner}")
            await connection.execute(f"CREATE ROLE {self.app} LOGIN PASSWORD '{PASSWORD}'")
            # The group role may be there already, made by another run: its new owner needs to grant it.
            if await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = 'zenzefi_app'"):
                await connection.execute(f"GRANT zenzefi_app TO {self.owner} WITH ADMIN OPTION")
            await connection.execute(f"CREATE DATABASE {self.template} OWNER {self.owner}")
        finally:
            await connection.close()
        environment = self.settings_env(self.template) | {"SECRET_KEY": SECRET_KEY, "ENVIRONMENT": "development"}
        await asyncio.to_thread(migrate_up, Settings.from_env(environment))

    async def clone(self, database: str) -> None:
        """Make a database from the template."""
        connection = await self.connect()
        try:
            await connection.execute(f"CREATE DATABASE {database} TEMPLATE {self.template} OWNER {self.owner}")
            await connection.execute(f"GRANT CONNECT ON DATABASE {database} TO {self.app}")
        finally:
            await connection.close()

    async def drop(self, database: str) -> None:
        """Drop a database, whoever is connected."""
        connection = await self.connect()
        try:
            await connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        finally:
            await connection.close()

    async def discard(self) -> None:
        """Remove what this run made."""
        connection = await self.connect()
        try:
            names = await connection.fetch("SELECT datname FROM pg_database WHERE datname LIKE $1", f"%_{self.run}_%")
            for record in names:
                await connection.execute(f"DROP DATABASE IF EXISTS {record['datname']} WITH (FORCE)")
            for role in (self.app, self.owner):
                await connection.execute(f"DROP OWNED BY {role}")
                await connection.execute(f"DROP ROLE {role}")
        finally:
            await connection.close()


class ClusterKeeper:
    """Starts the cluster in pytest's main process and ends it."""

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._embedded: EmbeddedPostgres | None = None
        self._cluster: Cluster | None = None

    def start(self, environ: Mapping[str, str] = os.environ) -> None:
        run = uuid4().hex[:8]
        if host := environ.get("POSTGRES_SERVER"):
            self._cluster = Cluster(
                host=host,
                port=int(environ.get("POSTGRES_PORT", "5432")),
                user=environ.get("POSTGRES_USER", "postgres"),
                password=environ.get("POSTGRES_PASSWORD", ""),
                run=run,
            )
        else:
            self._directory = Path(tempfile.mkdtemp(prefix="zenzefi-tests-"))
            self._embedded = EmbeddedPostgres(self._directory / "postgres", durable=False)
            self._embedded.start()
            self._cluster = Cluster(
                host=self._embedded.host,
                port=self._embedded.port,
                user=self._embedded.superuser,
                password=self._embedded.password,
                run=run,
            )
        asyncio.run(self._cluster.prepare())
        self._cluster.export()

    def stop(self) -> None:
        if self._embedded is not None:
            self._embedded.stop()
        elif self._cluster is not None:
            asyncio.run(self._cluster.discard())
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


@contextmanager
def valkey(worker_number: int, directory: Path) -> Iterator[dict[str, str]]:
    """A Valkey for one worker, as settings: embedded, or a database of its own on REDIS_HOST."""
    if host := os.environ.get("REDIS_HOST"):
        yield {
            "REDIS_HOST": host,
            "REDIS_PORT": os.environ.get("REDIS_PORT", "6379"),
            "REDIS_PASSWORD": os.environ.get("REDIS_PASSWORD", ""),
            "REDIS_DB": str(worker_number + 1),
            **PATIENT,
        }
        return
    server = EmbeddedValkey(directory, append_only=False)
    server.start()
    try:
        yield {
            "REDIS_HOST": server.host,
            "REDIS_PORT": str(server.port),
            "REDIS_PASSWORD": server.password,
            **PATIENT,
        }
    finally:
        server.stop()
