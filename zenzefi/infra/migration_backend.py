"""The owner's session for migrations: yoyo's backend with our bookkeeping, the advisory lock, errors in plain words."""

import contextlib
import hashlib
import socket
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString, TypeAlias

import psycopg
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI
from yoyo.migrations import Migration

from zenzefi.settings import Settings

Connection: TypeAlias = psycopg.Connection[Any]

APP_ROLE: LiteralString = "zenzefi_app"
MIGRATION_TABLE: LiteralString = "_yoyo_migration"

_LOCK_KEY = 0x7A6E7A6D6967  # "znzmig": any constant that nothing else in the database uses
_LOCK_POLL_S = 0.1
_CONNECT_TIMEOUT_S = 5
# A statement that waits for a table lock makes all traffic on that table queue behind it: give up soon, and say so.
_TABLE_LOCK_TIMEOUT_S = 5


class MigrationError(Exception):
    """The schema is not, or cannot be brought, where it should be. The message says what to do."""


class MigrationBackend(PostgresqlPsycopgBackend):  # type: ignore[misc]  # yoyo has no types
    """yoyo's PostgreSQL backend with our bookkeeping in the migration's own transaction."""

    # yoyo's own statement fails on the second run, and every such failure is an ERROR in the server's log.
    create_lock_table_sql = PostgresqlPsycopgBackend.create_lock_table_sql.replace(
        "CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1
    )

    def create_bookkeeping(self) -> None:
        """Create yoyo's tables and the checksums' where they are missing, and clear the lock row of a dead process."""
        with explained("Preparing the migration tables"):
            self.execute(self.format_sql(self.create_lock_table_sql))
            self.break_lock()
            self.ensure_internal_schema_updated()
            self.execute(
                "CREATE TABLE IF NOT EXISTS migration_checksums ("
                "migration_id text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
            )

    def remember(self, migration: Migration) -> None:
        """Mark a migration as applied, with its checksum. Joins the running transaction."""
        self.mark_one(migration)
        self.execute(
            "INSERT INTO migration_checksums (migration_id, sha256) VALUES (:id, :sha256) "
            "ON CONFLICT (migration_id) DO UPDATE SET sha256 = excluded.sha256, applied_at = excluded.applied_at",
            {"id": migration.id, "sha256": checksum(migration)},
        )

    def forget(self, migration: Migration) -> None:
        """Undo `remember`. Joins the running transaction."""
        self.unmark_one(migration)
        self.execute("DELETE FROM migration_checksums WHERE migration_id = :id", {"id": migration.id})

    def get_log_data(self, migration: Migration | None = None, operation: str = "apply") -> dict[str, object]:
        """Return a row of yoyo's log; yoyo would ask the system for the user's name, and a container has none."""
        return {
            "id": str(uuid.uuid4()),
            "migration_id": migration.id if migration else None,
            "migration_hash": migration.hash if migration else None,
            "username": self.uri.username,
            "hostname": socket.gethostname()[:255],
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "operation": operation,
        }


def open_backend(settings: Settings) -> MigrationBackend:
    """Connect as the owner. The backend is a context manager that closes the connection."""
    try:
        return MigrationBackend(_uri(settings), MIGRATION_TABLE)
    except psycopg.OperationalError as error:
        raise MigrationError(
            f"PostgreSQL at {settings.postgres_direct_server}:{settings.postgres_direct_port} does not let "
            f"{settings.postgres_owner_user} into the database {settings.postgres_db}: {_message(error)}. Check that "
            "it runs, and POSTGRES_SERVER, POSTGRES_PORT, POSTGRES_DB, POSTGRES_OWNER_USER and POSTGRES_OWNER_PASSWORD "
            "(POSTGRES_USER and POSTGRES_PASSWORD where those are not set)."
        ) from error


@contextlib.contextmanager
def open_exclusive_backend(settings: Settings, *, lock_wait_s: float) -> Iterator[MigrationBackend]:
    """Connect as the owner and hold the advisory lock on that connection: who loses it loses the work with it.

    Raises MigrationError when another process holds the lock for more than `lock_wait_s` seconds.
    """
    with open_backend(settings) as backend:
        deadline = time.monotonic() + lock_wait_s
        # Polled: a session that waits inside pg_advisory_lock holds a snapshot, which CREATE INDEX CONCURRENTLY in the
        # session that has the lock would wait for, for ever.
        while not read_row(backend.connection, "SELECT pg_try_advisory_lock(%s)", _LOCK_KEY)[0]:
            if time.monotonic() > deadline:
                raise MigrationError(_name_lock_holder(backend.connection, lock_wait_s))
            time.sleep(_LOCK_POLL_S)
        yield backend


def _name_lock_holder(connection: Connection, waited_s: float) -> str:
    query: LiteralString = (
        "SELECT max(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = %s AND objid = %s "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    holder = read_row(connection, query, _LOCK_KEY >> 32, _LOCK_KEY & 0xFFFFFFFF)[0]
    return (
        f"Another process has been migrating this database for more than {waited_s:g} s (its backend's pid is "
        f"{holder}). Let it finish, or end it with SELECT pg_terminate_backend({holder}), then run this again."
    )


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn an error of PostgreSQL into a MigrationError that says what to do."""
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        raise MigrationError(
            f"{doing}: another session kept a table locked for {_TABLE_LOCK_TIMEOUT_S} s. Nothing of it was kept. Run "
            "this again when no long transaction runs (pg_stat_activity shows them)."
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise MigrationError(
            f"{doing}: {_message(error)}. Nothing of it was kept. POSTGRES_OWNER_USER must own the database and have "
            f"CREATEROLE; or let an administrator run: CREATE ROLE {APP_ROLE}; GRANT {APP_ROLE} TO (POSTGRES_USER)."
        ) from error
    except psycopg.OperationalError as error:
        raise MigrationError(f"{doing}: {_message(error)}. Nothing of it was kept; run this again.") from error
    except psycopg.Error as error:
        raise MigrationError(f"{doing}: {_message(error)}. Nothing of it was kept; correct the migration.") from error


def checksum(migration: Migration) -> str:
    """SHA-256 of the migration's file; a checkout that turned line ends into CRLF has not edited it."""
    return hashlib.sha256(Path(migration.path).read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def read_row(connection: Connection, query: LiteralString, *arguments: object) -> tuple[Any, ...]:
    """Return the one row of an aggregate or an expression."""
    rows: list[tuple[Any, ...]] = connection.execute(query, arguments).fetchall()
    return rows[0]


def _message(error: psycopg.Error) -> str:
    text = error.diag.message_primary or (str(error).strip() or type(error).__name__).splitlines()[0]
    return text.rpartition(" failed: ")[2].removeprefix("FATAL:").strip().rstrip(".")


def _uri(settings: Settings) -> DatabaseURI:
    """Return what yoyo would parse from postgresql+psycopg://…, without quoting a password into a URL and back."""
    options = {
        "search_path": "public",
        "lock_timeout": f"{_TABLE_LOCK_TIMEOUT_S}s",
        "client_min_messages": "warning",
        # The server ends the work of a process that was killed, instead of finishing a long statement first.
        "client_connection_check_interval": "1s",
    }
    return DatabaseURI(
        scheme="postgresql+psycopg",
        username=settings.postgres_owner_user,
        password=settings.postgres_owner_password,
        hostname=settings.postgres_direct_server,
        port=settings.postgres_direct_port,
        database=settings.postgres_db,
        args={
            "application_name": "zenzefi migrate",
            "connect_timeout": str(_CONNECT_TIMEOUT_S),
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
        },
    )
