"""The database and its two logins in an embedded PostgreSQL."""

from typing import LiteralString

import psycopg
from psycopg import sql

from zenzefi.devstack.errors import DevStackError
from zenzefi.settings import Settings

_CONNECT_TIMEOUT_S = 10


def provision_database(superuser_dsn: str, settings: Settings) -> None:
    """Make the owner's login, the application's login and the database, or bring them to what the settings say.

    The owner runs the migrations: it owns the database and may make roles (the group of the application's logins) and
    databases (scratch ones, to prove backups). The application's login owns nothing. Neither is a superuser.

    Idempotent. Raises DevStackError.
    """
    owner, app = settings.postgres_owner_user, settings.postgres_user
    try:
        with psycopg.connect(superuser_dsn, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S) as connection:
            _make_login(connection, owner, settings.postgres_owner_password, "CREATEDB CREATEROLE")
            grant = sql.SQL("GRANT pg_signal_backend TO {}")  # restoring ends the sessions of what it replaces
            connection.execute(grant.format(sql.Identifier(owner)))
            if app != owner:
                _make_login(connection, app, settings.postgres_password, "NOCREATEDB NOCREATEROLE")
            name = settings.postgres_db
            found = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone()
            if found is None:
                query = sql.SQL("CREATE DATABASE {} OWNER {}")
                connection.execute(query.format(sql.Identifier(name), sql.Identifier(owner)))
    except psycopg.Error as error:
        raise DevStackError(f"The embedded PostgreSQL could not be set up: {error}") from error


def _make_login(connection: psycopg.Connection, name: str, password: str, privileges: LiteralString) -> None:
    found = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone()
    query = sql.SQL("{} ROLE {} LOGIN NOSUPERUSER {} PASSWORD {}").format(
        sql.SQL("CREATE" if found is None else "ALTER"),
        sql.Identifier(name),
        sql.SQL(privileges),
        sql.Literal(password),
    )
    connection.execute(query)
