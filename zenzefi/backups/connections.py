"""Connections around PgBouncer: backups need session-level locks, an exported snapshot, and values spelled one way."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

from zenzefi.errors import DatabaseUnavailable
from zenzefi.settings import Settings

if TYPE_CHECKING:
    DirectConnection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    DirectConnection = asyncpg.Connection

MAINTENANCE = "postgres"  # the database to be connected to while others are made, renamed and dropped
_CONNECT_TIMEOUT_S = 10.0
_LOST = (asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, asyncpg.InterfaceError)
# Text of the same value must be the same on every server, whatever a role or a database has set for itself.
_SPELLING = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",  # floats that read back as the same bits
    "bytea_output": "hex",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
    "search_path": "pg_catalog",  # every other name is written with its schema
}
# Servers before PostgreSQL 17 do not know it, and refuse sessions that ask for what they do not know.
_NO_TRANSACTION_TIMEOUT = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'"
_SESSION = {
    "application_name": "zenzefi backup",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "row_security": "off",  # an error rather than some of the rows
    "jit": "off",  # compiling costs more than it saves in hundreds of short statements
    "tcp_keepalives_idle": "60",  # the lock's connection is silent for hours, and firewalls forget such
}


@asynccontextmanager
async def open_direct(settings: Settings, *, database: str | None = None) -> AsyncIterator[DirectConnection]:
    """Connect as the backups' login, to the product's database unless another is named.

    Raises:
        DatabaseUnavailable: the server cannot be reached or refuses the login, or the connection is lost inside the
            block; the message says which and why.
    """
    name = database or settings.postgres_db
    try:
        connection = await asyncpg.connect(
            host=settings.postgres_direct_server,
            port=settings.postgres_direct_port,
            user=settings.backup.postgres_user,
            password=settings.backup.postgres_password,
            database=name,
            timeout=_CONNECT_TIMEOUT_S,
            server_settings=_SPELLING | _SESSION,
        )
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:  # TimeoutError is an OSError
        raise DatabaseUnavailable(
            f"PostgreSQL at {settings.postgres_direct_server}:{settings.postgres_direct_port}/{name} refused user "
            f"{settings.backup.postgres_user!r} or cannot be reached ({str(error) or 'no answer in time'}). Check "
            "POSTGRES_DIRECT_SERVER, POSTGRES_DIRECT_PORT, BACKUP_POSTGRES_USER and BACKUP_POSTGRES_PASSWORD."
        ) from error
    try:
        await connection.execute(_NO_TRANSACTION_TIMEOUT)
        yield connection
    except _LOST as error:
        raise DatabaseUnavailable(f"The connection to PostgreSQL's database {name} was lost: {error}.") from error
    finally:
        # In order when it can be, and at once when the server does not answer.
        try:
            await connection.close(timeout=2)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            connection.terminate()
