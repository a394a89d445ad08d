"""Running a checking program to its end, and turning what it complains of into CheckFailed."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from deploy.checks.failures import CheckFailed

_TIMEOUT_S: Final = 120.0


def run(
    command: Sequence[str | Path],
    *,
    input_text: str | None = None,
    timeout_s: float = _TIMEOUT_S,
    working_directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What a program printed; raises CheckFailed with all of its words if it fails or takes longer than `timeout_s`."""
    words = " ".join(str(part) for part in command[:3])
    try:
        completed = subprocess.run(  # noqa: S603  programs of the checks, files of ours
            command,
            input=input_text,
            stdin=subprocess.DEVNULL if input_text is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            cwd=working_directory,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise CheckFailed(f"{words}: it took longer than {timeout_s:g} s.") from None
    if completed.returncode != 0:
        raise CheckFailed(f"{words}:\n{completed.stdout}\n{completed.stderr}".strip())
    return completed.stdout.strip()
