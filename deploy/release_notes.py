"""Print what CHANGELOG.md says of a version: `python deploy/release_notes.py 1.2.3`.

It fails when the changelog has nothing on that version, or when the package is of another one. It runs on any Python,
without anything installed.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class NotReleasable(Exception):
    """Why this version cannot be released."""


def release_notes(version: str, *, changelog: str, package_version: str) -> str:
    """The section of a version, without its headline; raises NotReleasable."""
    if version != package_version:
        raise NotReleasable(f"The tag says {version}, and pyproject.toml says {package_version}.")
    headline = re.compile(rf"^## \[?{re.escape(version)}\]?(?: - (\S+))?$", re.MULTILINE)
    found = headline.search(changelog)
    if found is None:
        raise NotReleasable(f"CHANGELOG.md has no section '## {version} - YYYY-MM-DD'.")
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", found[1] or ""):
        raise NotReleasable(f"The section {version} of CHANGELOG.md has no date: '## {version} - YYYY-MM-DD'.")
    section = re.split(r"^(?:## |\[[^\]]+\]: )", changelog[found.end() :], maxsplit=1, flags=re.MULTILINE)[0].strip()
    if not section:
        raise NotReleasable(f"The section {version} of CHANGELOG.md is empty.")
    return f"{section}\n"


def main(arguments: list[str]) -> int:
    """Print the notes; returns the exit code."""
    if len(arguments) != 1:
        print("usage: release_notes.py VERSION", file=sys.stderr)
        return 2
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    try:
        notes = release_notes(arguments[0], changelog=changelog, package_version=project["version"])
    except NotReleasable as error:
        print(f"release_notes.py: {error}", file=sys.stderr)
        return 1
    sys.stdout.write(notes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
