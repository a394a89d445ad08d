"""All shell scripts: the files, and those inside the workflows."""

import tempfile
from pathlib import Path
from typing import Final

from deploy.checks.debian import ROOT
from deploy.checks.failures import CheckFailed
from deploy.checks.running import run
from deploy.checks.tools import python_tool
from deploy.checks.workflows import WORKFLOWS, run_blocks

_HIDDEN: Final = (".ci", ".github")
_SHEBANGS: Final = (b"#!/bin/sh", b"#!/bin/bash", b"#!/usr/bin/env bash")


def check_shell() -> None:
    """Raise CheckFailed with what shellcheck finds."""
    scripts = _scripts()
    if not scripts:
        raise CheckFailed("No shell script was found.")
    shellcheck = python_tool("shellcheck")
    run([shellcheck, *scripts], working_directory=ROOT)
    with tempfile.TemporaryDirectory(prefix="zenzefi-workflows-") as folder:
        files = []
        for number, (step, script) in enumerate(block for file in _workflows() for block in run_blocks(file)):
            files.append(file := Path(folder, f"{number}.sh"))
            file.write_text(f"# {step}\nset -eo pipefail\n{script}", encoding="utf-8")
        # As `shell: bash` runs them. An expression of GitHub in a script would be code from outside; zizmor finds it.
        run([shellcheck, "--shell=bash", *files])


def _workflows() -> list[Path]:
    return sorted(WORKFLOWS.glob("*.yml"))


def _scripts() -> list[Path]:
    """What says that it is a shell script, outside of the folders that git ignores."""
    entries = [entry for entry in ROOT.iterdir() if entry.name in _HIDDEN or not entry.name.startswith(".")]
    files = [file for entry in entries for file in (entry.rglob("*") if entry.is_dir() else (entry,))]
    return sorted(file for file in files if file.is_file() and (file.suffix == ".sh" or _is_shell(file)))


def _is_shell(file: Path) -> bool:
    with file.open("rb") as content:
        return content.readline(64).strip().startswith(_SHEBANGS)
