"""deploy/backup: cron's line is run as it stands, and the unit runs the same commands."""

import asyncio
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.support.serving import ROOT
from zenzefi.backups.repository import Repository

FOLDER = ROOT / "deploy" / "backup"


def _command_of_cron() -> str:
    (line,) = (line for line in (FOLDER / "zenzefi-backup.cron").read_text().splitlines() if line.startswith("0 3"))
    return line.split(maxsplit=6)[6]


def test_the_unit_and_cron_run_the_same_commands() -> None:
    unit = re.findall(r"^ExecStart=(.*)$", (FOLDER / "zenzefi-backup.service").read_text(), re.MULTILINE)

    assert unit == [part.removesuffix(" >/dev/null") for part in _command_of_cron().split(" && ")[3:]]


async def test_the_line_of_cron_makes_a_verified_backup_and_says_nothing(
    backup_env: dict[str, str], repository: Repository, tmp_path: Path
) -> None:
    variables = tmp_path / "backup.env"
    # Redis is not needed, so nothing answers there.
    lines = {**backup_env, "REDIS_PORT": "1"}.items()
    variables.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in lines))
    command = _command_of_cron().replace("/etc/zenzefi/backup.env", str(variables))
    command = command.replace("/opt/zenzefi/current/.venv/bin/python", sys.executable)

    finished = await asyncio.to_thread(
        subprocess.run,
        ["/bin/sh", "-c", command],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=90,
    )

    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    assert [manifest.is_verified async for manifest in repository.manifests()] == [True]
