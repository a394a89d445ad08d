"""A database's schema as text, for comparing: columns, constraints, indices, functions, triggers, privileges."""

from typing import LiteralString

from zenzefi.infra.migration_backend import Connection

_RELATIONS: LiteralString = (
    "SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind NOT IN ('i', 'I') "
    "AND relname NOT IN ('_yoyo_log', '_yoyo_migration', '_yoyo_version', 'yoyo_lock', 'migration_checksums')"
)
_QUERIES: tuple[LiteralString, ...] = (
    "SELECT 'schema', nspname, nspacl::text FROM pg_namespace WHERE nspname = 'public'",
    (
        "SELECT 'relation', relname, relkind::text, pg_get_expr(relpartbound, oid), relowner::regrole::text, "
        "(SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(relacl) a) "
        f"FROM pg_class WHERE oid IN ({_RELATIONS})"
    ),
    (
        "SELECT 'column', attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull, "
        "attacl::text, "
        "(SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = attrelid AND adnum = attnum) "
        f"FROM pg_attribute WHERE attrelid IN ({_RELATIONS}) AND attnum > 0 AND NOT attisdropped"
    ),
    (
        "SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid) "
        f"FROM pg_constraint WHERE conrelid IN ({_RELATIONS})"
    ),
    f"SELECT 'index', pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid IN ({_RELATIONS})",
    f"SELECT 'trigger', pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid IN ({_RELATIONS}) AND NOT tgisinternal",
    "SELECT 'function', pg_get_functiondef(oid), proacl::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
)


def describe_schema(connection: Connection) -> list[str]:
    """Return the schema without the bookkeeping of the migrations; equal schemas give equal lists."""
    lines = [str(row) for query in _QUERIES for row in connection.execute(query)]
    return sorted(lines)
