"""What pg_dump is told, what of it is believed, and what its failures say."""

import asyncio
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from tests.backups.restoring import restored
from tests.server.supervised import wait_gone
from tests.support.servers import PASSWORD
from zenzefi.backups.errors import DumpFailed, NoRepository
from zenzefi.backups.processes import ProgramMissing, running
from zenzefi.backups.proof import differences, take_proof
from zenzefi.backups.repository import Repository
from zenzefi.backups.service import back_up
from zenzefi.context import open_context
from zenzefi.infra import facts
from zenzefi.settings import Settings

Wrap = Callable[[str], Settings]


@pytest.fixture
def wrapped(backup_env: dict[str, str], tmp_path: Path) -> Wrap:
    """Settings whose pg_dump is a script; in it, $PG_DUMP is the real one and `--version` is answered by that."""

    def wrap(script: str) -> Settings:
        program = tmp_path / "pg_dump"
        real = Path(backup_env["POSTGRES_BIN"]) / "pg_dump"
        lines = ("#!/bin/sh", f"PG_DUMP={real}", '[ "$1" = --version ] && exec "$PG_DUMP" --version', script)
        program.write_text("\n".join(lines))
        program.chmod(0o755)
        return Settings.from_env({**backup_env, "POSTGRES_BIN": str(tmp_path)})

    return wrap


async def test_a_dump_that_fails_after_50_megabytes_is_no_backup(wrapped: Wrap, repository: Repository) -> None:
    settings = wrapped("head -c 50000000 /dev/urandom; echo 'the disk of the server is gone' >&2; exit 1")

    async with open_context(settings) as ctx:
        with pytest.raises(DumpFailed, match="exit code 1: the disk of the server is gone"):
            await back_up(ctx)

    assert await repository.ids() == []
    assert await repository.sweep_uploads(older_than=timedelta(0)) == 0
    assert [orphan async for orphan in repository.orphans(older_than=timedelta(0))] == []


async def test_a_dump_that_is_killed_is_no_backup(wrapped: Wrap, repository: Repository) -> None:
    async with open_context(wrapped('"$PG_DUMP" "$@" | head -c 10000; kill -9 $$')) as ctx:
        with pytest.raises(DumpFailed, match="signal 9"):
            await back_up(ctx)

    assert await repository.ids() == []


async def test_what_is_written_meanwhile_is_in_neither_dump_nor_proof(
    wrapped: Wrap, backup_settings: Settings, tmp_path: Path, repository: Repository
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    async with open_context(wrapped(f'read _ < {gate}; exec "$PG_DUMP" "$@"')) as ctx:
        making = asyncio.create_task(back_up(ctx))
        opened = await asyncio.to_thread(gate.open, "w")  # once the script reads: the snapshot has been exported
        async with ctx.transaction() as conn:
            await facts.put(conn, name="later", document={}, at=ctx.now())
        opened.write("go\n")
        opened.close()
        manifest = await making

    async with restored(backup_settings, repository, manifest) as connection:
        assert differences(manifest.proof, await take_proof(connection)) == []
        assert await connection.fetchval("SELECT count(*) FROM public.facts") == 0


async def test_the_password_is_in_nobodys_arguments(wrapped: Wrap, tmp_path: Path) -> None:
    seen = tmp_path / "arguments"

    async with open_context(wrapped(f'echo "$@" > {seen}; exec "$PG_DUMP" "$@"')) as ctx:
        await back_up(ctx)

    assert "--snapshot=" in seen.read_text()
    assert PASSWORD not in seen.read_text()


async def test_a_pg_dump_older_than_the_server_is_refused(
    backup_env: dict[str, str], tmp_path: Path, repository: Repository
) -> None:
    (tmp_path / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'")
    (tmp_path / "pg_dump").chmod(0o755)

    async with open_context(Settings.from_env({**backup_env, "POSTGRES_BIN": str(tmp_path)})) as ctx:
        with pytest.raises(ProgramMissing, match=r"of version 9\.6\.24, and the server of \d+.*POSTGRES_BIN"):
            await back_up(ctx)


async def test_a_missing_pg_dump_is_named(backup_env: dict[str, str], tmp_path: Path) -> None:
    async with open_context(Settings.from_env({**backup_env, "POSTGRES_BIN": str(tmp_path)})) as ctx:
        with pytest.raises(ProgramMissing, match=f"pg_dump was not found in {tmp_path}"):
            await back_up(ctx)


@pytest.mark.parametrize("variable", ["S3_BUCKET", "BACKUP_RECIPIENTS"])
async def test_without_a_bucket_or_a_key_there_is_no_repository(backup_env: dict[str, str], variable: str) -> None:
    async with open_context(Settings.from_env({**backup_env, variable: ""})) as ctx:
        with pytest.raises(NoRepository, match=variable):
            await back_up(ctx)


async def test_a_bucket_that_does_not_exist_is_no_repository(backup_env: dict[str, str]) -> None:
    async with open_context(Settings.from_env({**backup_env, "S3_BUCKET": "nobodys"})) as ctx:
        with pytest.raises(NoRepository, match="nobodys"):
            await back_up(ctx)


async def test_a_child_takes_its_children_along() -> None:
    """Also those that keep its output open: reading it to the end would otherwise take as long as they do."""
    async with asyncio.timeout(60), running(["/bin/sh", "-c", "sleep 600 & echo $!"], environment={}) as child:
        grandchild = int(await child.read())
        assert psutil.pid_exists(grandchild)

    await wait_gone([grandchild])  # it was told to, and takes a moment where the machine is busy
