"""`audit verify --archives`: archived months are downloaded, and whatever was done to one is named."""

import asyncio
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from typing import Any

import asyncpg

from tests.audit.conftest import ROWS
from tests.audit.test_archiving import stored
from tests.support.serving import ROOT
from workers.jobs import audit as jobs
from zenzefi.audit import archive_queries, archive_verification
from zenzefi.context import Context


async def _verify(*options: str, env: dict[str, str]) -> tuple[int, str]:
    finished = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "zenzefi", "audit", "verify", "--archives", *options],
        env={**os.environ, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return finished.returncode, finished.stdout


async def test_the_command_tells_of_each_month(log: Context, month: date, archive_env: dict[str, str]) -> None:
    assert await jobs.archive_audit_log(log) == 1

    code, output = await _verify("--json", env=archive_env)

    (archive,) = json.loads(output)["archives"]
    assert (code, archive["month"], archive["rows"], archive["fault"]) == (0, f"{month:%Y-%m}", ROWS, None)
    client: Any
    async with log.storage.open_client() as client:
        await client.delete_object(Bucket=log.storage.bucket, Key=archive["object_key"])
    code, output = await _verify(env=archive_env)
    broken, summary = output.splitlines()
    assert code == 1
    assert broken.startswith(f"archive_broken\t{month:%Y-%m}\t{archive['object_key']}: ")
    assert broken.endswith("has no such object")
    assert summary.startswith("sound: ")


def _flip(data: bytes) -> bytes:
    """One bit of gzip's checksum; one of the rows would leave it to chance what is found to be wrong first."""
    return data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]


def _alter_a_row(data: bytes) -> bytes:
    return gzip.compress(gzip.decompress(data).replace(b"thing.change", b"thing.create", 1))


def _leave_the_last_row_out(data: bytes) -> bytes:
    return gzip.compress(b"".join(gzip.decompress(data).splitlines(keepends=True)[:-1]))


def _add_a_row(data: bytes) -> bytes:
    return gzip.compress(gzip.decompress(data) + b"[]\n")


def _add_bytes(data: bytes) -> bytes:
    return data + b"\n"


_DAMAGES: dict[Callable[[bytes], bytes], str] = {
    _flip: "cannot be decompressed",
    _alter_a_row: "row 1 is not what was sealed",
    _leave_the_last_row_out: "and those after it are missing",
    _add_a_row: f"more rows than the {ROWS}",
    _add_bytes: "does not end with its last row",
}


async def test_what_was_done_to_an_archive_is_named_even_where_its_record_fits(
    log: Context, owner: "asyncpg.Connection[asyncpg.Record]", month: date
) -> None:
    await jobs.archive_audit_log(log)
    async with log.connection() as conn:
        (dropped,) = await archive_queries.select_dropped_months(conn)
    whole = await stored(log, dropped.archive.object_key)

    async def fault_of(data: bytes, *, recorded: bytes) -> str:
        client: Any
        async with log.storage.open_client() as client:
            await client.put_object(Bucket=log.storage.bucket, Key=dropped.archive.object_key, Body=data)
        await owner.execute(
            "UPDATE audit_archives SET size_bytes = $1, sha256 = $2", len(recorded), hashlib.sha256(recorded).digest()
        )
        (check,) = await archive_verification.verify_archives(log)
        return str(check.fault)

    for damage, words in _DAMAGES.items():
        damaged = damage(whole)
        assert re.search(words, await fault_of(damaged, recorded=damaged)), damage
    # The same rows, compressed in another way: only the record tells.
    anew = gzip.compress(gzip.decompress(whole), compresslevel=1)
    assert "bytes instead of" in await fault_of(anew, recorded=whole)
    assert await fault_of(whole, recorded=whole) == "None"
