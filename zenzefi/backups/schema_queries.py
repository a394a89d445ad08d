"""What the schema of a database is, as lines of text a kind: equal before a dump and after its restoration.

Left out is what a restoration may change without anything being wrong: owners, object ids, the places of dropped
columns, the versions of extensions, and what PostgreSQL derives for partitions from the definition of their parent.
"""

# ruff: noqa: S608  # every part of every query is a constant of this file, which LiteralString has mypy check

from collections.abc import Mapping
from typing import LiteralString

_OURS: LiteralString = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"


def _named(schema: LiteralString, name: LiteralString) -> LiteralString:
    return f"quote_ident({schema}) || '.' || quote_ident({name})"


def _not_of_extension(catalog: LiteralString, oid: LiteralString) -> LiteralString:
    return (
        f"NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = '{catalog}'::regclass AND d.objid = {oid} "
        "AND d.deptype = 'e')"
    )


def _granted(acl: LiteralString, kind: LiteralString, owner: LiteralString) -> LiteralString:
    """Who else than the owner may do what; the owner of a restored database may be another."""
    return (
        "(SELECT string_agg(concat_ws(' ', CASE WHEN a.grantee = 0 THEN 'public' ELSE a.grantee::regrole::text END, "
        "a.privilege_type, a.is_grantable), ', ' ORDER BY a.grantee = 0, a.grantee::regrole::text COLLATE \"C\", "
        f"a.privilege_type COLLATE \"C\") FROM aclexplode(coalesce({acl}, acldefault('{kind}', {owner}))) a "
        f"WHERE a.grantee <> {owner})"
    )


_RELATIONS = f"""
SELECT ROW({_named("n.nspname", "c.relname")}, c.relkind, c.relpersistence, c.reloptions::text,
    c.relrowsecurity, c.relforcerowsecurity, c.relreplident, pg_get_partkeydef(c.oid),
    pg_get_expr(c.relpartbound, c.oid),
    (SELECT string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno) FROM pg_inherits i
     WHERE i.inhrelid = c.oid),
    CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
    {_granted("c.relacl", "r", "c.relowner")})::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_OURS} AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND {_not_of_extension("pg_class", "c.oid")}
"""

_COLUMNS = f"""
SELECT ROW({_named("n.nspname", "c.relname")},
    row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), quote_ident(a.attname),
    format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
    pg_get_expr(e.adbin, e.adrelid), nullif(a.attcollation, t.typcollation)::regcollation::text,
    CASE WHEN a.attacl IS NOT NULL THEN {_granted("a.attacl", "c", "c.relowner")} END)::text
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
WHERE {_OURS} AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND a.attnum > 0 AND NOT a.attisdropped
    AND {_not_of_extension("pg_class", "c.oid")}
"""

# NOT NULL is a column's; PostgreSQL lists it among the constraints from version 18 on.
_CONSTRAINTS = f"""
SELECT ROW(coalesce(nullif(k.conrelid, 0)::regclass::text, k.contypid::regtype::text),
    quote_ident(k.conname), k.convalidated, pg_get_constraintdef(k.oid))::text
FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
WHERE {_OURS} AND k.contype <> 'n' AND k.conparentid = 0
    AND {_not_of_extension("pg_class", "k.conrelid")} AND {_not_of_extension("pg_type", "k.contypid")}
"""

_INDEXES = f"""
SELECT ROW(pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisreplident, i.indisclustered)::text
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_OURS} AND {_not_of_extension("pg_class", "c.oid")}
"""

_TRIGGERS = f"""
SELECT ROW(t.tgenabled, pg_get_triggerdef(t.oid))::text
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_OURS} AND NOT t.tgisinternal AND t.tgparentid = 0
"""

_FUNCTIONS = f"""
SELECT ROW(p.oid::regprocedure::text, p.prokind,
    CASE WHEN p.prokind IN ('f', 'p', 'w') THEN pg_get_functiondef(p.oid) END,
    {_granted("p.proacl", "f", "p.proowner")})::text
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE {_OURS} AND {_not_of_extension("pg_proc", "p.oid")}
"""

_TYPES = f"""
SELECT ROW({_named("n.nspname", "t.typname")}, t.typtype, t.typnotnull, t.typdefault,
    CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
    (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_enum e
     WHERE e.enumtypid = t.oid))::text
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE {_OURS} AND t.typtype IN ('d', 'e', 'r') AND {_not_of_extension("pg_type", "t.oid")}
"""

_SEQUENCES = f"""
SELECT ROW({_named("n.nspname", "c.relname")}, s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmax,
    s.seqmin, s.seqcache, s.seqcycle, {_granted("c.relacl", "s", "c.relowner")})::text
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_OURS} AND {_not_of_extension("pg_class", "c.oid")}
"""

_RULES = f"""
SELECT ROW(r.ev_enabled, pg_get_ruledef(r.oid))::text
FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_OURS} AND r.rulename <> '_RETURN' AND {_not_of_extension("pg_class", "c.oid")}
"""

_POLICIES = f"""
SELECT ROW(p.polrelid::regclass, quote_ident(p.polname), p.polcmd, p.polpermissive,
    (SELECT string_agg(CASE WHEN r = 0 THEN 'public' ELSE r::regrole::text END, ', '
     ORDER BY r::regrole::text COLLATE "C") FROM unnest(p.polroles) r),
    pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))::text
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_OURS}
"""

_STATISTICS = f"""
SELECT pg_get_statisticsobjdef(s.oid)
FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE {_OURS}
"""

_SCHEMAS = f"""
SELECT ROW(quote_ident(n.nspname), {_granted("n.nspacl", "n", "n.nspowner")})::text
FROM pg_namespace n WHERE {_OURS} AND {_not_of_extension("pg_namespace", "n.oid")}
"""

SCHEMA_QUERIES: Mapping[str, LiteralString] = {
    "schemas": _SCHEMAS,
    "extensions": "SELECT quote_ident(extname) FROM pg_extension",
    "types": _TYPES,
    "relations": _RELATIONS,
    "columns": _COLUMNS,
    "constraints": _CONSTRAINTS,
    "indexes": _INDEXES,
    "triggers": _TRIGGERS,
    "functions": _FUNCTIONS,
    "sequences": _SEQUENCES,
    "rules": _RULES,
    "policies": _POLICIES,
    "statistics": _STATISTICS,
}

# The tables whose rows pg_dump writes: partitions each by themselves, and nothing of extensions.
TABLES: LiteralString = f"""
SELECT {_named("n.nspname", "c.relname")} AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_OURS} AND c.relkind = 'r' AND c.relpersistence <> 't' AND {_not_of_extension("pg_class", "c.oid")}
ORDER BY 1
"""

# How far each sequence has come in its own direction; one that was never used is left out.
SEQUENCE_VALUES: LiteralString = f"""
SELECT {_named("schemaname", "sequencename")} AS name, last_value * sign(increment_by)::bigint AS reached
FROM pg_sequences WHERE last_value IS NOT NULL ORDER BY 1
"""
