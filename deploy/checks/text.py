"""Whether every YAML file below deploy/ is one that people like to read."""

import subprocess
import sys
from typing import Final

from deploy.checks.debian import ROOT
from deploy.checks.failures import CheckFailed
from deploy.checks.files import DEPLOY

_TIMEOUT_S: Final = 60


def check_yaml() -> None:
    """Raise CheckFailed with what yamllint finds."""
    completed = subprocess.run(  # noqa: S603  a program of the development requirements
        [sys.executable, "-m", "yamllint", "--strict", "--config-file", DEPLOY / ".yamllint.yml", DEPLOY],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if completed.returncode != 0:
        raise CheckFailed(f"yamllint:\n{completed.stdout}{completed.stderr}".strip())
