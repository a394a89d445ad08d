"""What a database itself has, and pg_dump leaves out: its locale, who may connect, and the settings of its sessions."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import asyncpg
import structlog

from zenzefi.backups.connections import MAINTENANCE, DirectConnection, open_direct
from zenzefi.errors import JsonObject
from zenzefi.settings import Settings

_DATABASE = """
SELECT pg_encoding_to_char(encoding) AS encoding, datlocprovider::text AS provider, datcollate AS collate,
    datctype AS ctype, coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') AS locale,
    datconnlimit AS connection_limit
FROM pg_database AS d WHERE datname = $1
"""
# Without those of its owner, who may be another where it is restored.
_GRANTS = """
SELECT r.rolname AS role, a.privilege_type AS privilege, a.is_grantable
FROM pg_database AS d
CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a
LEFT JOIN pg_roles AS r ON r.oid = a.grantee
WHERE d.datname = $1 AND a.grantee <> d.datdba
ORDER BY role NULLS FIRST, privilege
"""
_SESSION_SETTINGS = """
SELECT r.rolname AS role, split_part(setting, '=', 1) AS name, substr(setting, strpos(setting, '=') + 1) AS value
FROM pg_db_role_setting AS s
INNER JOIN pg_database AS d ON d.oid = s.setdatabase
CROSS JOIN LATERAL unnest(s.setconfig) AS setting
LEFT JOIN pg_roles AS r ON r.oid = s.setrole
WHERE d.datname = $1
ORDER BY role NULLS FIRST, name
"""
_PROVIDERS = {"i": "LOCALE_PROVIDER icu ICU_LOCALE", "b": "LOCALE_PROVIDER builtin BUILTIN_LOCALE"}
# What GRANT takes as a word, and cannot be quoted: a manifest may come from whoever can write to the bucket.
_PRIVILEGE = re.compile(r"[A-Z]{1,32}")
_NAMES_LIBC = 15  # from this version on a cluster may have another provider by default, and libc must be named

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a role may do with the database; everybody without a name."""

    role: str | None
    privilege: str
    is_grantable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSetting:
    """What sessions of a role, or of all without a name, begin with."""

    role: str | None
    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseProperties:
    """What CREATE DATABASE, GRANT and ALTER DATABASE said of a database."""

    encoding: str
    provider: str
    collate: str
    ctype: str
    locale: str | None
    connection_limit: int
    grants: tuple[Grant, ...]
    session_settings: tuple[SessionSetting, ...]

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read what a manifest has; raises KeyError, TypeError or ValueError where it is none."""
        grants = tuple(Grant(**grant) for grant in document["grants"])
        for grant in grants:
            if _PRIVILEGE.fullmatch(grant.privilege) is None:
                raise ValueError(f"{grant.privilege!r} is no privilege")
        session_settings = tuple(SessionSetting(**setting) for setting in document["session_settings"])
        return cls(**{**document, "grants": grants, "session_settings": session_settings})

    def to_document(self) -> JsonObject:
        """What a manifest keeps."""
        return {
            "encoding": self.encoding,
            "provider": self.provider,
            "collate": self.collate,
            "ctype": self.ctype,
            "locale": self.locale,
            "connection_limit": self.connection_limit,
            "grants": [
                {"role": grant.role, "privilege": grant.privilege, "is_grantable": grant.is_grantable}
                for grant in self.grants
            ],
            "session_settings": [
                {"role": setting.role, "name": setting.name, "value": setting.value}
                for setting in self.session_settings
            ],
        }

    def options(self, *, server_major: int) -> str:
        """The clauses of CREATE DATABASE: text of the same locale is sorted, and so indexed, in the same way."""
        clauses = (
            f"ENCODING {_literal(self.encoding)} LC_COLLATE {_literal(self.collate)} LC_CTYPE {_literal(self.ctype)}"
        )
        if self.locale is not None and self.provider in _PROVIDERS:
            return f"{clauses} {_PROVIDERS[self.provider]} {_literal(self.locale)}"
        return f"{clauses} LOCALE_PROVIDER libc" if server_major >= _NAMES_LIBC else clauses


async def find_properties(connection: DirectConnection, database: str) -> DatabaseProperties | None:
    """Those of a database, if there is one of this name."""
    row = await connection.fetchrow(_DATABASE, database)
    if row is None:
        return None
    grants = tuple(Grant(**grant) for grant in await connection.fetch(_GRANTS, database))
    found = await connection.fetch(_SESSION_SETTINGS, database)
    return DatabaseProperties(
        **row, grants=grants, session_settings=tuple(SessionSetting(**setting) for setting in found)
    )


async def grant_privileges(connection: DirectConnection, database: str, properties: DatabaseProperties) -> None:
    """Let those connect who could, and nobody else. Whom this server does not know is logged and left out."""
    name = quoted(database)
    await connection.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    for grant in properties.grants:
        role = "PUBLIC" if grant.role is None else quoted(grant.role)
        option = " WITH GRANT OPTION" if grant.is_grantable else ""
        await _try(connection, f"GRANT {grant.privilege} ON DATABASE {name} TO {role}{option}")


async def restore_session_settings(settings: Settings, database: str, properties: DatabaseProperties) -> None:
    """Have sessions begin with what they did. What our login may not set is logged and left out."""
    async with open_direct(settings, database=MAINTENANCE) as connection:
        await _try(connection, f"ALTER DATABASE {quoted(database)} CONNECTION LIMIT {int(properties.connection_limit)}")
        for setting in properties.session_settings:
            whose = f"DATABASE {quoted(database)}"
            if setting.role is not None:
                whose = f"ROLE {quoted(setting.role)} IN {whose}"
            # By way of our own session: only so does PostgreSQL itself spell what is a list of names.
            await _try(connection, f"ALTER {whose} SET {quoted(setting.name)} FROM CURRENT", setting)


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


async def _try(connection: DirectConnection, statement: str, setting: SessionSetting | None = None) -> None:
    try:
        async with connection.transaction():
            if setting is not None:
                await connection.execute("SELECT set_config($1, $2, true)", setting.name, setting.value)
            await connection.execute(statement)
    except asyncpg.PostgresError as error:
        log.warning("backup_database_property_not_restored", statement=statement, error=str(error))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
