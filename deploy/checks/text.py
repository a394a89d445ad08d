"""Whether every YAML file below deploy/ is one that people like to read."""

import sys

from deploy.checks.files import DEPLOY
from deploy.checks.running import run


def check_yaml() -> None:
    """Raise CheckFailed with what yamllint finds."""
    run([sys.executable, "-m", "yamllint", "--strict", "--config-file", DEPLOY / ".yamllint.yml", DEPLOY])
