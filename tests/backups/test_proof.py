"""The proof: equal for equal data however it lies, spelled the same everywhere, and changed by whatever changes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.backups.restoring import restored
from tests.support.servers import Cluster
from zenzefi.backups.connections import DirectConnection, open_direct
from zenzefi.backups.models import SnapshotProof
from zenzefi.backups.proof import differences, take_proof
from zenzefi.backups.repository import Repository
from zenzefi.backups.service import back_up
from zenzefi.context import Context
from zenzefi.settings import Settings

EVERYTHING = Path(__file__).with_name("everything.sql")

CHANGED_VALUES = (
    "UPDATE public.kinds SET f8 = f8 + 1e-16 WHERE id = 7",
    "UPDATE public.kinds SET t = t + interval '1 microsecond' WHERE id = 7",
    "UPDATE public.kinds SET n = 1.500 WHERE id = 7",
    "UPDATE public.kinds SET b = '\\xdeadbeee' WHERE id = 7",
    "UPDATE public.kinds SET a[2] = '' WHERE id = 7",
    "UPDATE public.kinds SET js = '{ \"z\": 1 }' WHERE id = 7",
    "UPDATE public.parted SET note = 'Rest' WHERE id = 500",
    "UPDATE public.parted SET id = 501 WHERE id = 500",
    """UPDATE "Odd Schema"."A Table; 'x'" SET t = NULL WHERE ctid = '(0,2)'""",
    "DELETE FROM public.pointing",
    "UPDATE public.kinds SET f8 = other.f8 FROM public.kinds AS other WHERE (kinds.id, other.id) IN ((1, 2), (2, 1))",
)

CHANGED_SCHEMAS = {
    "columns": "ALTER TABLE public.parted ALTER COLUMN note SET DEFAULT 'x'",
    "constraints": "ALTER TABLE public.pointing ADD CHECK (id < 100)",
    "functions": "REVOKE EXECUTE ON FUNCTION public.touch() FROM PUBLIC",
    "indexes": "CREATE INDEX ON public.pointing (id)",
    "policies": "ALTER POLICY mine ON public.kinds TO PUBLIC",
    "relations": "GRANT DELETE ON public.ledger_postings TO zenzefi_app",
    "rules": "CREATE RULE silent AS ON DELETE TO public.pointing DO INSTEAD NOTHING",
    "schemas": 'GRANT USAGE ON SCHEMA "Odd Schema" TO zenzefi_app',
    "sequences": "ALTER SEQUENCE public.countdown CYCLE",
    "statistics": "DROP STATISTICS public.kinds_ab",
    "triggers": "ALTER TABLE public.kinds DISABLE TRIGGER touched",
    "types": "ALTER TYPE public.mood ADD VALUE 'great'",
}


@pytest.fixture
async def connection(backup_settings: Settings) -> AsyncIterator[DirectConnection]:
    """A connection to a database that has one of everything."""
    async with open_direct(backup_settings) as opened:
        await opened.execute(EVERYTHING.read_text())
        yield opened


async def _proof_after(connection: DirectConnection, statement: str) -> SnapshotProof:
    """The proof as it would be after a statement, which is undone."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
        return await take_proof(connection)
    finally:
        await transaction.rollback()


async def test_one_of_everything_is_restored_to_the_same_proof(
    connection: DirectConnection, backup_ctx: Context, repository: Repository
) -> None:
    manifest = await back_up(backup_ctx)

    async with restored(backup_ctx.settings, repository, manifest) as other:
        assert differences(manifest.proof, await take_proof(other)) == []
        await other.execute("SELECT setval('public.countdown', -5)")
        assert differences(manifest.proof, await take_proof(other)) == [
            "public.countdown: the sequence has not come as far as it had"
        ]


async def test_whatever_changes_a_value_changes_the_proof(connection: DirectConnection) -> None:
    proof = await take_proof(connection)
    assert proof.tables["public.kinds"].rows == 40

    unnoticed = [
        statement
        for statement in CHANGED_VALUES
        if len(differences(proof, await _proof_after(connection, statement))) != 1
    ]

    assert unnoticed == []


async def test_whatever_changes_the_schema_changes_the_proof(connection: DirectConnection) -> None:
    proof = await take_proof(connection)
    assert proof.schema.keys() == CHANGED_SCHEMAS.keys() | {"extensions"}

    for kind, statement in CHANGED_SCHEMAS.items():
        changed = await _proof_after(connection, statement)
        assert f"the schema differs in its {kind}" in differences(proof, changed)


async def test_an_extension_is_of_the_schema_and_what_it_brings_is_not(
    backup_env: dict[str, str], cluster: Cluster
) -> None:
    superuser = {"BACKUP_POSTGRES_USER": cluster.user, "BACKUP_POSTGRES_PASSWORD": cluster.password}
    async with open_direct(Settings.from_env({**backup_env, **superuser})) as connection:
        proof = await take_proof(connection)
        changed = await _proof_after(connection, "ALTER EXTENSION plpgsql ADD TABLE public.users")
        without = await _proof_after(connection, "DROP EXTENSION plpgsql CASCADE")

    assert "public.users: the table is missing" in differences(proof, changed)
    assert "the schema differs in its extensions" in differences(proof, without)


async def test_neither_the_order_of_rows_nor_what_a_database_has_set_matters(
    connection: DirectConnection, backup_settings: Settings
) -> None:
    proof = await take_proof(connection)
    await connection.execute("UPDATE public.kinds SET v = v WHERE id % 3 = 0")
    await connection.execute("VACUUM FULL ANALYZE public.kinds")
    for setting in (
        "timezone = 'Asia/Kathmandu'",
        "datestyle = 'German'",
        "intervalstyle = 'iso_8601'",
        "extra_float_digits = -15",
        "bytea_output = 'escape'",
        "search_path = 'public'",
        "quote_all_identifiers = on",
        "row_security = on",
    ):
        await connection.execute(f"ALTER DATABASE {backup_settings.postgres_db} SET {setting}")

    async with open_direct(backup_settings) as elsewhere:
        assert differences(proof, await take_proof(elsewhere)) == []
