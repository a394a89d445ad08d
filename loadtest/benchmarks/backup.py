"""Backups of a 5 GB database: how fast beside `pg_dump | gzip`, and in how much memory."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import asyncpg

from loadtest.figures import Bench, Figure
from zenzefi.backups.encryption import make_identity
from zenzefi.backups.processes import child_environment
from zenzefi.devstack.binaries import find_postgres
from zenzefi.settings import Settings

HEADLINES = ("backup throughput", "backup memory")
FULL_MB, QUICK_MB = 5_000, 100
ROUNDS = 2
_BATCH_ROWS = 100_000

# Rows as audit and usage have them: identifiers that do not compress, and text that does.
_FILL = """
INSERT INTO bench_rows
SELECT gen_random_uuid(), gen_random_uuid(), clock_timestamp() + i * interval '1 ms',
    (random() * 10000)::numeric(18, 2),
    '/api/v1/resources/' || i % 1000 || '/items?cursor=' || md5(i::text), sha256(i::text::bytea),
    jsonb_build_object('agent', 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36', 'status', 200 + i % 5,
        'note', repeat(md5((i % 997)::text) || ' ', 8))
FROM generate_series($1::bigint, $2::bigint) AS i
"""


async def run(bench: Bench) -> list[Figure]:
    """Make a database of 5 GB; dump it by pg_dump | gzip into a file and by us into S3, in turn, each twice."""
    environment = _environment(bench)
    settings = Settings.from_env(environment)
    size = await _fill(bench, settings)
    piped_s: list[float] = []
    ours: list[dict[str, float]] = []
    for turn in range(1 if bench.quick else ROUNDS):
        bench.tell(f"pg_dump | gzip, turn {turn + 1}")
        piped_s.append(_pipe(bench, settings))
        bench.tell(f"zenzefi backup, turn {turn + 1}")
        ours.append(_back_up(environment))
    took_s = statistics.fmean(made["took_s"] for made in ours)
    piped = size / 1e6 / statistics.fmean(piped_s)
    backed_up = size / 1e6 / took_s
    database = f"a database of {size / 1e9:.2f} GB"
    return [
        Figure(
            name="backup throughput",
            value=backed_up,
            unit="MB/s",
            method=f"{database}: snapshot, proof, pg_dump at level 3, age and S3; the share is of pg_dump | gzip",
            ratio=backed_up / piped,
        ),
        Figure(
            name="pg_dump | gzip throughput",
            value=piped,
            unit="MB/s",
            method=f"{database}, at gzip's own level 6, into a file, in turn with the backup",
        ),
        Figure(
            name="backup memory",
            value=max(made["risen_kb"] for made in ours) / 1024,
            unit="MiB",
            method=f"{database}: by how much the peak of the process's memory (VmHWM) rises over that of its start",
        ),
        Figure(
            name="backup size",
            value=ours[-1]["stored_bytes"] / 1e6,
            unit="MB",
            method=f"{database}: what is stored; the share is of the database",
            ratio=ours[-1]["stored_bytes"] / size,
        ),
    ]


def _environment(bench: Bench) -> dict[str, str]:
    _, recipient = make_identity()
    variables = {"BACKUP_RECIPIENTS": recipient, "POSTGRES_BIN": str(find_postgres() / "bin")}
    return bench.servers.environment("bench_backup", **bench.servers.s3_variables(), **variables)


async def _fill(bench: Bench, settings: Settings) -> int:
    """Add rows until the database is as large as it should be; its size in bytes."""
    wanted = (QUICK_MB if bench.quick else FULL_MB) * 1_000_000
    connection = await asyncpg.connect(
        host=settings.postgres_server,
        port=settings.postgres_port,
        user=settings.postgres_owner_user,
        password=settings.postgres_owner_password,
        database=settings.postgres_db,
    )
    try:
        await connection.execute(
            "CREATE TABLE bench_rows (id uuid PRIMARY KEY, user_id uuid, at timestamptz, amount numeric(18, 2), "
            "path text, hash bytea, detail jsonb)"
        )
        first, size = 1, 0
        while size < wanted:
            await connection.execute(_FILL, first, first + _BATCH_ROWS - 1)
            first += _BATCH_ROWS
            size = await connection.fetchval("SELECT pg_database_size(current_database())")
            bench.tell(f"filling: {size / 1e9:.2f} of {wanted / 1e9:.2f} GB")
        await connection.execute("VACUUM ANALYZE bench_rows")
    finally:
        await connection.close()
    return int(size)


def _pipe(bench: Bench, settings: Settings) -> float:
    """What everybody would do, in seconds."""
    target = bench.directory / "dump.gz"
    program = Path(settings.backup.postgres_bin) / "pg_dump"
    started = time.perf_counter()
    with target.open("wb") as file:
        dumping = subprocess.Popen([program], env=child_environment(settings), stdout=subprocess.PIPE)  # noqa: S603
        subprocess.run(["gzip"], stdin=dumping.stdout, stdout=file, check=True)  # noqa: S607
        if dumping.wait() != 0:
            raise RuntimeError(f"pg_dump ended with exit code {dumping.returncode}")
        os.fsync(file.fileno())
    took_s = time.perf_counter() - started
    target.unlink()
    return took_s


def _back_up(environment: Mapping[str, str]) -> dict[str, float]:
    completed = subprocess.run(
        [sys.executable, "-m", "loadtest.backup_process"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    made: dict[str, float] = json.loads(completed.stdout.splitlines()[-1])
    return made
