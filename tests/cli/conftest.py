"""The command line, run as people run it."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import TypeAlias

import pytest

from tests.support.serving import ROOT

Finished: TypeAlias = "subprocess.CompletedProcess[str]"
RunCli: TypeAlias = Callable[..., Finished]

# What the machine's own environment may hold of ours would make the tests depend on it.
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")


@pytest.fixture
def run_cli() -> RunCli:
    """`run_cli("doctor", "--json", env={…}, typed="…")`: `python -m zenzefi doctor --json`, with its output."""

    def run(*arguments: str, env: dict[str, str] | None = None, typed: str = "") -> Finished:
        return subprocess.run(
            [sys.executable, "-m", "zenzefi", *arguments],
            env={name: os.environ[name] for name in _KEPT if name in os.environ} | (env or {}),
            cwd=ROOT,
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def assert_one_clear_line(finished: Finished, *parts: str) -> None:
    """It failed, and said why in one line on standard error."""
    assert finished.returncode == 1, finished
    assert finished.stdout == ""
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    for part in parts:
        assert part in finished.stderr
