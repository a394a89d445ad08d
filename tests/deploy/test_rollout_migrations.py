"""Migrations leave the release before this one able to serve: see migrations/README.md."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from zenzefi.infra.migrations import find_migrations

_ROOT = Path(__file__).resolve().parents[2]
_CONTRACT = re.compile(r"\d{4}\.contract-[a-z0-9-]+\.sql")
# What squawk finds where something is taken away that the release before may still use. An index is built in the
# transaction of its migration only on a table that is new or small: that may be ignored, with a reason.
_TAKES_AWAY = (
    "adding-not-nullable-field",
    "adding-required-field",
    "ban-drop-column",
    "ban-drop-database",
    "ban-drop-not-null",
    "ban-drop-table",
    "changing-column-type",
    "renaming-column",
    "renaming-table",
)


def _forward_files() -> list[Path]:
    return sorted(file for file in find_migrations().glob("*.sql") if not file.name.endswith(".rollback.sql"))


def _squawk(files: Sequence[Path]) -> subprocess.CompletedProcess[str]:
    squawk = Path(sys.executable).with_name("squawk")
    return subprocess.run([squawk, *files], cwd=_ROOT, capture_output=True, text=True, timeout=60)


def _ignored_rules(file: Path) -> set[str]:
    found = re.findall(r"squawk-ignore(?:-file)?\s+([\w, -]+)", file.read_text(encoding="utf-8"))
    return {rule.strip() for rules in found for rule in rules.split(",")}


def test_what_takes_away_is_a_contract_migration_by_its_name() -> None:
    takers = [file.name for file in _forward_files() if _ignored_rules(file) & set(_TAKES_AWAY)]
    assert [name for name in takers if not _CONTRACT.fullmatch(name)] == []


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("ALTER TABLE users DROP COLUMN username;", "ban-drop-column"),
        ("ALTER TABLE users RENAME COLUMN username TO name;", "renaming-column"),
        ("ALTER TABLE users RENAME TO people;", "renaming-table"),
        ("ALTER TABLE users ALTER COLUMN username TYPE varchar(10);", "changing-column-type"),
        ("ALTER TABLE users ADD COLUMN colour text NOT NULL;", "adding-required-field"),
        ("DROP TABLE users;", "ban-drop-table"),
    ],
)
def test_squawk_finds_what_takes_away(tmp_path: Path, statement: str, rule: str) -> None:
    file = tmp_path / "9001.more.sql"
    file.write_text(f"{statement}\n")
    assert rule in _TAKES_AWAY
    found = _squawk([file])
    assert found.returncode != 0
    assert rule in found.stdout


def test_squawk_lets_pass_what_only_adds(tmp_path: Path) -> None:
    file = tmp_path / "9001.more.sql"
    file.write_text("ALTER TABLE users ADD COLUMN colour text;\nCREATE TABLE colours (name text PRIMARY KEY);\n")
    assert _squawk([file]).returncode == 0
