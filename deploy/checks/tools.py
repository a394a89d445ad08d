"""Programs from PyPI and npm that only the checks need, installed into .tools by the lock files that name them.

They have an environment of their own: their requirements contradict those of the product.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Final

from deploy.checks.debian import ROOT, TOOLS, lock
from deploy.checks.failures import CheckFailed
from deploy.checks.running import run

_PYTHON_LOCK: Final = ROOT / "requirements-deploy.lock"
_NODE_LOCK: Final = ROOT / "deploy/checks/node/package-lock.json"
_INSTALL_TIMEOUT_S: Final = 600.0


def python_tool(name: str) -> Path:
    """The path of a program of requirements-deploy.lock; raises CheckFailed when it cannot be installed."""
    # Scripts name their interpreter by its whole path, so a checkout that was moved needs another environment.
    place = TOOLS / f"python-{_digest(_PYTHON_LOCK, sys.version, str(TOOLS))}"
    with lock():
        if not (place / ".whole").exists():
            run([sys.executable, "-m", "venv", "--clear", place], timeout_s=_INSTALL_TIMEOUT_S)
            pip: list[str | Path] = [
                place / "bin/python",
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-input",
            ]
            run([*pip, "--require-hashes", "--requirement", _PYTHON_LOCK], timeout_s=_INSTALL_TIMEOUT_S)
            (place / ".whole").touch()
    return _existing(place / "bin" / name)


def node_tool(name: str) -> list[str | Path]:
    """The command of a program of deploy/checks/node; raises CheckFailed without Node.js or npm."""
    programs = {program: shutil.which(program) for program in ("node", "npm")}
    missing = sorted(program for program, path in programs.items() if path is None)
    if missing:
        raise CheckFailed(f"{name} needs {' and '.join(missing)}. Debian, Ubuntu: apt install nodejs npm")
    place = TOOLS / f"node-{_digest(_NODE_LOCK)}"
    with lock():
        if not (place / ".whole").exists():
            place.mkdir(parents=True, exist_ok=True)
            for file in ("package.json", "package-lock.json"):
                shutil.copy(_NODE_LOCK.parent / file, place)
            run(
                [str(programs["npm"]), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"],
                working_directory=place,
                timeout_s=_INSTALL_TIMEOUT_S,
            )
            (place / ".whole").touch()
    return [str(programs["node"]), _existing(place / "node_modules/.bin" / name)]


def _digest(file: Path, *more: str) -> str:
    return hashlib.sha256(json.dumps([file.read_text(encoding="utf-8"), *more]).encode()).hexdigest()[:16]


def _existing(program: Path) -> Path:
    if not program.is_file():
        raise CheckFailed(f"{program.relative_to(TOOLS)} is missing, though its lock file is installed.")
    return program
