"""The unit files of deploy/systemd and deploy/backup, as what they say."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.checks.files import DEPLOY

SYSTEMD: Final = DEPLOY / "systemd"
PYTHON: Final = "/opt/zenzefi/current/.venv/bin/python"
RELEASE: Final = "/opt/zenzefi/current"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit file: its assignments in order, each with its section."""

    path: Path
    assignments: tuple[tuple[str, str, str], ...]

    @property
    def name(self) -> str:
        """Such as zenzefi-web.service."""
        return self.path.name

    def all(self, key: str) -> list[str]:
        """Every value of a key; one that is empty takes back those before it."""
        values: list[str] = []
        for _, name, value in self.assignments:
            if name == key:
                values = [*values, value] if value else []
        return values

    def last(self, key: str) -> str:
        """The value that counts where there can be one; "" without any."""
        values = self.all(key)
        return values[-1] if values else ""

    def commands(self) -> list[list[str]]:
        """The words of each ExecStart=."""
        return [shlex.split(line) for line in self.all("ExecStart")]

    def environment(self) -> dict[str, str]:
        """What Environment= sets, with specifiers as they stand."""
        words = [word for line in self.all("Environment") for word in shlex.split(line)]
        return dict(word.split("=", 1) for word in words)

    def credentials(self) -> dict[str, str]:
        """What LoadCredential= loads: where each comes from."""
        return dict(line.split(":", 1) for line in self.all("LoadCredential"))


def read_units() -> dict[str, Unit]:
    """All units by name."""
    folders = (SYSTEMD, DEPLOY / "backup")
    paths = [path for folder in folders for path in folder.iterdir() if _is_unit(path)]
    return {path.name: _read(path) for path in sorted(paths)}


def _is_unit(path: Path) -> bool:
    return path.suffix in (".service", ".socket", ".target", ".timer")


def _read(path: Path) -> Unit:
    section, assignments = "", []
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            assignments.append((section, key, value))
    return Unit(path=path, assignments=tuple(assignments))


def seconds_of(span: str) -> float:
    """A time span such as 90, 2min or 1h as seconds."""
    units: Mapping[str, float] = {"": 1, "s": 1, "min": 60, "h": 3600}
    match = re.fullmatch(r"(\d+)(s|min|h)?", span)
    if match is None:
        raise ValueError(span)
    return int(match[1]) * units[match[2] or ""]
