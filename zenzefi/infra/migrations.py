"""Migrations: yoyo's SQL files, applied under one polled advisory lock, each with its checksum in its own transaction.

yoyo by itself marks a migration as applied in a second transaction and guards the run by a committed row: a process
that is killed leaves either a migration that is applied and not known to be, or a lock for ever. Here the migration,
its mark and its checksum commit together, and the lock belongs to the session that does the work.
"""

import contextlib
import glob
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import LiteralString

from psycopg import sql
from yoyo import read_migrations
from yoyo.exceptions import BadMigration, MigrationConflict
from yoyo.migrations import Migration, MigrationList, topological_sort

from zenzefi.infra.migration_backend import (
    APP_ROLE,
    MIGRATION_TABLE,
    Connection,
    MigrationBackend,
    MigrationError,
    checksum,
    explained,
    open_backend,
    open_exclusive_backend,
    read_row,
)
from zenzefi.settings import Settings

# Rows of these are history: the application adds to it, and nothing alters it.
HISTORY_TABLES = (
    "audit_archive_drops",
    "audit_archives",
    "audit_log",
    "audit_sealed_rows",
    "audit_seals",
    "ledger_postings",
    "ledger_transactions",
)

# A long migration of a big table is legitimate, and a process that waits for it has nothing better to do.
_LOCK_WAIT_S = 600.0
_FIRST_MIGRATION = "0001.roles-and-partitions.sql"

__all__ = [
    "HISTORY_TABLES",
    "MIGRATION_TABLE",
    "MigrationError",
    "MigrationState",
    "MigrationStatus",
    "check",
    "expected_ids",
    "find_migrations",
    "may_rewrite_history",
    "migrate_down",
    "migrate_up",
    "migration_status",
]


class MigrationState(StrEnum):
    """What a migration is, by its file and by the database."""

    APPLIED = "applied"
    PENDING = "pending"
    EDITED = "edited"
    """Its file is not the one that was applied."""
    UNKNOWN = "unknown"
    """Applied, but this version has no such file: the database is newer than the code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationStatus:
    """One migration as it stands."""

    id: str
    state: MigrationState
    applied_at: datetime | None


def find_migrations() -> Path:
    """Return the directory of the SQL files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for directory in (package / "_migrations", package.parent / "migrations"):
        if (directory / _FIRST_MIGRATION).is_file():
            return directory
    raise MigrationError(
        f"The migrations are missing: neither {package / '_migrations'} nor {package.parent / 'migrations'} has them. "
        "Install zenzefi again, or run it from a complete checkout."
    )


def expected_ids(directory: Path | None = None) -> tuple[str, ...]:
    """Return the ids of all migrations of this version, sorted."""
    files = (directory or find_migrations()).glob("*.sql")
    return tuple(sorted(file.stem for file in files if not file.name.endswith(".rollback.sql")))


def migrate_up(settings: Settings, *, directory: Path | None = None, lock_wait_s: float = _LOCK_WAIT_S) -> list[str]:
    """Apply what is pending, and give the application's login its role. Idempotent; safe to run many times at once.

    Holds one session-level advisory lock. Returns the ids that this call applied; raises MigrationError.
    """
    migrations = _read(directory or find_migrations())
    with open_exclusive_backend(settings, lock_wait_s=lock_wait_s) as backend:
        backend.create_bookkeeping()
        _refuse_edited(_compare(backend.connection, migrations))
        applied = [_apply(backend, migration) for migration in backend.to_apply(migrations)]
        _grant_to_application(backend.connection, settings.postgres_user)
    return applied


def migrate_down(settings: Settings, *, directory: Path | None = None, lock_wait_s: float = _LOCK_WAIT_S) -> str | None:
    """Roll back the newest applied migration, and lose its data. Returns its id, or None when none is applied.

    Raises MigrationError when a newer version applied migrations that this one does not know.
    """
    migrations = _read(directory or find_migrations())
    with open_exclusive_backend(settings, lock_wait_s=lock_wait_s) as backend:
        backend.create_bookkeeping()
        unknown = _ids(_compare(backend.connection, migrations), MigrationState.UNKNOWN)
        if unknown:
            raise MigrationError(f"{', '.join(unknown)} came from a newer version: roll it back with that version.")
        for migration in backend.to_rollback(migrations):
            with explained(f"Rolling back {migration.id}"), backend.transaction():
                migration.process_steps(backend, "rollback")
                backend.forget(migration)
            return str(migration.id)
    return None


def migration_status(settings: Settings, *, directory: Path | None = None) -> list[MigrationStatus]:
    """Return every migration that the files or the database know, in order. Changes nothing."""
    migrations = _read(directory or find_migrations())
    with open_backend(settings) as backend:
        return _compare(backend.connection, migrations)


def check(settings: Settings, *, directory: Path | None = None) -> None:
    """Raise MigrationError unless every migration of this version is applied and none was edited since.

    Migrations that only the database knows are fine: during a rolling upgrade the old version runs on the new schema.
    """
    status = migration_status(settings, directory=directory)
    _refuse_edited(status)
    pending = _ids(status, MigrationState.PENDING)
    if pending:
        raise MigrationError(f"Not applied yet: {', '.join(pending)}. Run: zenzefi migrate up")


def may_rewrite_history(settings: Settings) -> bool:
    """Whether the application's login could alter or remove history: as the tables' owner, or as a superuser."""
    query: LiteralString = (
        "SELECT coalesce(bool_or(has_table_privilege(%s, oid, 'UPDATE, DELETE, TRUNCATE')), false) "
        "FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = ANY (%s)"
    )
    with open_backend(settings) as backend, explained("Reading the privileges"):
        return bool(read_row(backend.connection, query, settings.postgres_user, list(HISTORY_TABLES))[0])


def _apply(backend: MigrationBackend, migration: Migration) -> str:
    # yoyo prints the rows of every SELECT in a migration.
    with explained(f"Migration {migration.id}"), contextlib.redirect_stdout(io.StringIO()):
        if migration.use_transactions:
            with backend.transaction():
                migration.process_steps(backend, "apply")
                backend.remember(migration)
        else:
            # CREATE INDEX CONCURRENTLY and its like: it waits for old transactions without being in anybody's way.
            # Killed half way it runs again, so it must begin by dropping what an earlier run may have left.
            backend.execute("SET lock_timeout = 0")
            migration.process_steps(backend, "apply")
            backend.execute("RESET lock_timeout")
            with backend.transaction():
                backend.remember(migration)
    return str(migration.id)


def _grant_to_application(connection: Connection, login: str) -> None:
    """Make the application's login a member of the role that the migrations grant privileges to."""
    role, tables = sql.Identifier(APP_ROLE), sql.Identifier(MIGRATION_TABLE)
    with explained(f"Granting {APP_ROLE} to {login}"):
        if not _is_role(connection, APP_ROLE):
            return
        connection.execute(sql.SQL("GRANT SELECT ON {}, migration_checksums TO {}").format(tables, role))
        if not _is_role(connection, login):
            raise MigrationError(
                f"POSTGRES_USER is {login}, and PostgreSQL has no such role. Create it, then run this again: "
                f"CREATE ROLE {sql.Identifier(login).as_string(connection)} LOGIN PASSWORD '…'"
            )
        query = "SELECT %s = current_user OR pg_has_role(%s, %s, 'USAGE')"
        if not read_row(connection, query, login, login, APP_ROLE)[0]:
            connection.execute(sql.SQL("GRANT {} TO {}").format(role, sql.Identifier(login)))


def _compare(connection: Connection, migrations: MigrationList) -> list[MigrationStatus]:
    applied: dict[str, datetime] = {}
    checksums: dict[str, str] = {}
    with explained("Reading the migration tables"):
        if _is_table(connection, MIGRATION_TABLE):
            query = sql.SQL("SELECT migration_id, applied_at_utc FROM {}").format(sql.Identifier(MIGRATION_TABLE))
            applied = {id_: at.replace(tzinfo=UTC) for id_, at in connection.execute(query)}
        if _is_table(connection, "migration_checksums"):
            checksums = dict(connection.execute("SELECT migration_id, sha256 FROM migration_checksums").fetchall())
    states = dict.fromkeys(applied, MigrationState.UNKNOWN)
    for migration in migrations:
        if migration.id not in applied:
            states[migration.id] = MigrationState.PENDING
        elif checksums.get(migration.id) not in (None, checksum(migration)):
            states[migration.id] = MigrationState.EDITED
        else:
            states[migration.id] = MigrationState.APPLIED
    return [MigrationStatus(id=id_, state=state, applied_at=applied.get(id_)) for id_, state in sorted(states.items())]


def _ids(status: Sequence[MigrationStatus], state: MigrationState) -> list[str]:
    return [each.id for each in status if each.state is state]


def _refuse_edited(status: Sequence[MigrationStatus]) -> None:
    edited = _ids(status, MigrationState.EDITED)
    if edited:
        raise MigrationError(
            f"Edited after it was applied: {', '.join(edited)}. Put the file back as it was, and make the change in a "
            "new migration."
        )


def _read(directory: Path) -> MigrationList:
    try:
        migrations = read_migrations(glob.escape(str(directory)))
        for migration in migrations:
            migration.load()
        return MigrationList(topological_sort(migrations))
    except (BadMigration, MigrationConflict, OSError, ValueError, KeyError) as error:
        raise MigrationError(f"A migration in {directory} cannot be read: {error}") from error


def _is_table(connection: Connection, name: str) -> bool:
    return bool(read_row(connection, "SELECT to_regclass(%s) IS NOT NULL", name)[0])


def _is_role(connection: Connection, name: str) -> bool:
    return bool(read_row(connection, "SELECT count(*) FROM pg_roles WHERE rolname = %s", name)[0])
