"""Whether every YAML file of deploy/, Compose and GitHub is one that people like to read."""

import sys

from deploy.checks.debian import ROOT
from deploy.checks.files import DEPLOY
from deploy.checks.running import run


def check_yaml() -> None:
    """Raise CheckFailed with what yamllint finds."""
    places = [DEPLOY, ROOT / ".github", ROOT / "docker-compose.yml"]
    run([sys.executable, "-m", "yamllint", "--strict", "--config-file", DEPLOY / ".yamllint.yml", *places])
