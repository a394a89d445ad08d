"""What README.md says of the settings and the commands is what the code does."""

import re
from pathlib import Path

import click
import pytest

from tests.support.servers import SECRET_KEY
from zenzefi.cli import main
from zenzefi.environment import EnvironmentReader
from zenzefi.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def _settings_table() -> str:
    return README.split("## Settings", 1)[1].split("\n## ", 1)[0]


def test_settings_table_names_every_variable_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()
    raw = EnvironmentReader.raw

    def recording(self: EnvironmentReader, name: str) -> str | None:
        read.add(name)
        return raw(self, name)

    monkeypatch.setattr(EnvironmentReader, "raw", recording)
    Settings.from_env({"SECRET_KEY": SECRET_KEY, "SMTP_HOST": "mail.example", "MAIL_FROM": "gateway@mail.example"})
    names = {name for line in _settings_table().splitlines() if line.startswith("| `") for name in _names(line)}
    assert len(read) > 80
    assert names == read


def _names(line: str) -> set[str]:
    return set(re.findall(r"`([A-Z0-9_]+)`", line.split("|")[1]))


def test_every_command_is_in_the_table() -> None:
    operate = README.split("## Operate", 1)[1].split("\n## ", 1)[0]
    for name, command in main.commands.items():
        assert f"| `{name}" in operate, name
        for subcommand in command.commands if isinstance(command, click.Group) else ():
            assert f"`{subcommand}" in operate or f"{name} {subcommand}" in operate, (name, subcommand)
