"""A backup is verified when its restored copy is equal, and failed when anything about it is not."""

from uuid import uuid4

import pytest

from tests.backups.ballast import add_ballast
from tests.backups.scratch import altering, scratch_names
from tests.support.servers import Cluster
from zenzefi.backups import scratch
from zenzefi.backups.encryption import make_identity
from zenzefi.backups.errors import BackupNotFound, Locked, VerificationFailed, WrongKey
from zenzefi.backups.findings import FACT
from zenzefi.backups.locks import exclusive_run
from zenzefi.backups.models import VerificationState
from zenzefi.backups.repository import Repository
from zenzefi.backups.service import back_up
from zenzefi.backups.verification import verify
from zenzefi.context import Context, open_context
from zenzefi.infra import facts
from zenzefi.settings import Settings

# A transaction without postings: the backup is equal to its snapshot, and the snapshot is of a broken ledger.
_BREAK_LEDGER = """
INSERT INTO ledger_transactions (id, transaction_type, description, created_at)
VALUES (gen_random_uuid(), 'deposit', 'moves nothing', now())
"""


async def test_a_good_backup_is_verified(backup_ctx: Context, repository: Repository, cluster: Cluster) -> None:
    await add_ballast(backup_ctx.settings, megabytes=1)
    made = await back_up(backup_ctx)

    marked = await verify(backup_ctx)

    assert marked.id == made.id
    assert marked.is_verified
    assert await repository.get(made.id) == marked
    assert marked.proof == made.proof
    assert scratch_names(cluster, backup_ctx.settings.postgres_db) == []
    async with backup_ctx.connection() as conn:
        _, document = (await facts.read_all(conn))[FACT]
    assert document["last_verified"] == made.created_at.timestamp()
    with pytest.raises(BackupNotFound, match="not verified yet"):
        await verify(backup_ctx)


async def test_one_altered_row_fails_it(backup_ctx: Context, repository: Repository, cluster: Cluster) -> None:
    database = backup_ctx.settings.postgres_db
    await add_ballast(backup_ctx.settings, megabytes=1)
    made = await back_up(backup_ctx)
    alter = altering(
        cluster, database, b"UPDATE ballast SET payload = set_byte(payload, 9, get_byte(payload, 9) # 1) WHERE id = 7"
    )

    with pytest.raises(VerificationFailed, match=r"public\.ballast: its 16 rows are not the same"):
        await verify(backup_ctx, progress=alter)

    verification = (await repository.get(made.id)).verification
    assert verification.state is VerificationState.FAILED
    assert verification.reason == "public.ballast: its 16 rows are not the same"
    assert scratch_names(cluster, database) == []
    # Somebody looked into it: it may be tried again by its name.
    assert (await verify(backup_ctx, backup_id=made.id)).is_verified


async def test_a_broken_ledger_fails_it(backup_ctx: Context, cluster: Cluster) -> None:
    superuser = await cluster.connect(backup_ctx.settings.postgres_db)
    await superuser.execute(_BREAK_LEDGER)
    await superuser.close()
    await back_up(backup_ctx)

    with pytest.raises(VerificationFailed, match="the ledger breaks"):
        await verify(backup_ctx)


async def test_another_key_changes_nothing(
    backup_ctx: Context, backup_env: dict[str, str], repository: Repository
) -> None:
    made = await back_up(backup_ctx)
    phases: list[str] = []

    for identity in (make_identity()[0], ""):
        async with open_context(Settings.from_env({**backup_env, "BACKUP_IDENTITY": identity})) as ctx:
            with pytest.raises(WrongKey) as refusal:
                await verify(ctx, progress=lambda progress: phases.append(progress.phase))
            assert refusal.value.exit_code == 12

    assert await repository.get(made.id) == made
    assert phases == []  # nothing was downloaded


async def test_a_killed_runs_scratch_database_goes_with_the_next_run(backup_ctx: Context, cluster: Cluster) -> None:
    settings = backup_ctx.settings
    left = f"{scratch.base_name(settings)}_{scratch.Purpose.VERIFYING}_{uuid4().hex[:12]}"
    kept = f"{settings.postgres_db}_verifying_by_hand"
    for name in (left, kept):
        await cluster.clone(name)
    await back_up(backup_ctx)

    async with exclusive_run(backup_ctx):
        with pytest.raises(Locked):
            await verify(backup_ctx)  # while another run holds the lock, the database may be that one's
        assert left in scratch_names(cluster, settings.postgres_db)
    await verify(backup_ctx)

    assert scratch_names(cluster, settings.postgres_db) == [kept]
    await cluster.drop(kept)


def test_long_names_leave_room_for_the_endings(backup_settings: Settings, backup_env: dict[str, str]) -> None:
    long = Settings.from_env({**backup_env, "POSTGRES_DB": "ä" * 31})

    assert scratch.base_name(backup_settings) == backup_settings.postgres_db
    assert len(scratch.base_name(long).encode()) <= 39
