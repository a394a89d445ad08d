"""The commands, run as people and timers run them: what is printed in a pipe, and what the exit codes say."""

import asyncio
import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from io import StringIO

import pyrage
import pytest
from rich.console import Console

from tests.backups.requests import part
from tests.support.s3_faults import Fault, FaultyS3
from tests.support.serving import ROOT
from zenzefi.backups.encryption import make_identity
from zenzefi.backups.locks import exclusive_run
from zenzefi.backups.repository import Repository
from zenzefi.cli_progress import open_bars
from zenzefi.cli_tables import print_table
from zenzefi.context import Context

_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")


async def _run(*arguments: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "zenzefi", "backup", *arguments],
        env={name: os.environ[name] for name in _KEPT if name in os.environ} | env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


async def test_a_backup_is_made_verified_listed_and_kept_and_a_pipe_gets_nothing_else(
    backup_env: dict[str, str], repository: Repository
) -> None:
    made = await _run("now", env=backup_env)
    (backup_id,) = await repository.ids()
    assert (made.returncode, made.stdout, made.stderr) == (0, f"{backup_id}\n", "")
    other = make_identity()[0]
    wrong = await _run("verify", env=backup_env | {"BACKUP_IDENTITY": other})
    assert (wrong.returncode, wrong.stdout) == (12, "")
    assert not (await repository.get(backup_id)).is_verified
    verified = await _run("verify", env=backup_env)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert verified.stdout == f"{backup_id} is what was backed up.\n"
    torn = "20200101T030000Z-0123456789ab"
    await repository.client.put_object(Bucket=repository.bucket, Key=repository.manifest_key(torn), Body=b"{")

    plain, as_json, pruned = await asyncio.gather(
        _run("list", env=backup_env | {"POSTGRES_PORT": "1"}),
        _run("list", "--json", env=backup_env),
        _run("prune", env=backup_env),
    )

    assert plain.stderr == as_json.stderr == ""
    lines = [line.split("\t") for line in plain.stdout.splitlines()]
    assert [line[:2] for line in lines] == [["verified", backup_id], ["unreadable", torn]]
    documents = json.loads(as_json.stdout)["backups"]
    manifest = await repository.get(backup_id)
    assert (documents[0]["sha256"], documents[0]["rows"]) == (manifest.sha256, manifest.proof.rows)
    assert documents[0]["verified_at"].endswith("Z")
    assert documents[0].keys() == documents[1].keys()
    assert pruned.returncode == 1, "somebody must look at the unreadable one"
    assert pruned.stdout == f"kept\t{backup_id}\tthe newest verified\n"
    assert f"the manifest of {torn} cannot be read; it stays.\n" in pruned.stderr


@pytest.mark.parametrize("missing", [{"S3_BUCKET": ""}, {"S3_BUCKET": "nobodys"}, {"BACKUP_RECIPIENTS": ""}])
async def test_without_a_repository_the_code_is_10(backup_env: dict[str, str], missing: dict[str, str]) -> None:
    finished = await _run("now", env=backup_env | missing)

    assert (finished.returncode, finished.stdout) == (10, "")
    assert finished.stderr.count("\n") == 1
    assert "nobodys" in finished.stderr or next(iter(missing)) in finished.stderr


async def test_while_another_run_has_the_lock_the_code_is_11(backup_env: dict[str, str], backup_ctx: Context) -> None:
    async with exclusive_run(backup_ctx):
        now, prune, dry = await asyncio.gather(
            *(_run(*words, env=backup_env) for words in (["now"], ["prune"], ["prune", "--dry-run"]))
        )

    assert (now.returncode, prune.returncode, dry.returncode) == (11, 11, 0)
    assert "pg_terminate_backend" in now.stderr


async def test_a_key_pair_is_made_in_the_form_that_age_and_the_settings_read() -> None:
    made = await _run("key", env={})
    recipient = made.stdout.splitlines()[1].removeprefix("# public key: ")
    (identity,) = (line for line in made.stdout.splitlines() if not line.startswith("#"))
    assert str(pyrage.x25519.Identity.from_str(identity).to_public()) == recipient
    assert identity not in made.stderr

    shown, wrong = await asyncio.gather(
        _run("key", env={"BACKUP_RECIPIENTS": f"{recipient},age1other", "BACKUP_IDENTITY": made.stdout}),
        _run("key", env={"BACKUP_RECIPIENTS": recipient, "BACKUP_IDENTITY": "AGE-SECRET-KEY-1NO"}),
    )

    first, second = shown.stdout.splitlines()
    assert first.split("\t")[1:] == [recipient, "BACKUP_IDENTITY opens it"]
    assert second.split("\t")[1:] == ["age1other"]
    assert identity not in shown.stdout
    assert (wrong.returncode, wrong.stdout.count("\n")) == (12, 0)


async def test_sigterm_ends_a_backup_in_order(
    backup_env: dict[str, str], repository: Repository, faults: FaultyS3
) -> None:
    held = faults.inject(Fault.HOLD, part(1))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "zenzefi", "backup", "now"),
        env={**os.environ, **backup_env, "S3_ENDPOINT_URL": faults.url},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(50):
        await held.met.wait()
    process.terminate()
    output, errors = await process.communicate()

    assert (process.returncode, output) == (1, b"")
    assert b"It was told to end" in errors
    assert await repository.sweep_uploads(older_than=timedelta(0)) == 0, "it aborted its upload"
    assert await repository.ids() == []


def test_a_terminal_sees_how_much_is_done_of_what_has_a_size() -> None:
    screen = StringIO()
    with open_bars(Console(file=screen, force_terminal=True, width=100)) as bars:
        bars.add_task("comparing", total=None)
        bars.add_task("restoring", total=7_000_000, completed=3_500_000)
        bars.refresh()
        shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).splitlines()
    comparing, restoring = ([line for line in shown if word in line][-1] for word in ("comparing", "restoring"))
    assert "?" not in comparing
    assert "bytes" not in comparing
    assert "3.5/7.0 MB" in restoring


def test_a_narrow_table_keeps_what_is_copied_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "20260131T030000Z-0123456789ab"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "50")
    print_table(["state", "id", "head"], [["verified", name, "0018.default-partitions"]], whole="id")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert name in shown
    assert "…" not in shown
