"""What a release is described with."""

import subprocess
import sys

import pytest

from deploy.release_notes import ROOT, NotReleasable, release_notes

_CHANGELOG = """# Changelog

## Unreleased
### Added
- Not yet.

## 1.10.0 - 2026-03-01
### Added
- Ten.

### Fixed
- Something [with a link](https://example.com).

## 1.1.0 - 2026-01-01
- One.

[1.1.0]: https://example.com/1.1.0
"""


@pytest.mark.parametrize(
    ("version", "notes"),
    [
        ("1.10.0", "### Added\n- Ten.\n\n### Fixed\n- Something [with a link](https://example.com).\n"),
        ("1.1.0", "- One.\n"),
    ],
)
def test_notes_are_the_section_of_the_version(version: str, notes: str) -> None:
    assert release_notes(version, changelog=_CHANGELOG, package_version=version) == notes


@pytest.mark.parametrize(
    ("version", "package", "changelog", "reason"),
    [
        ("1.1.0", "1.2.0", _CHANGELOG, r"tag says 1\.1\.0, and pyproject\.toml says 1\.2\.0"),
        ("1.2.0", "1.2.0", _CHANGELOG, "no section"),
        ("1x1.0", "1x1.0", _CHANGELOG, "no section"),
        ("1.2.0", "1.2.0", "## 1.2.0\n- Two.\n", "no date"),
        ("1.2.0", "1.2.0", "## 1.2.0 - 2026-01-01\n\n## 1.1.0 - 2025-01-01\n- One.\n", "is empty"),
    ],
)
def test_a_release_that_is_not_described_is_refused(version: str, package: str, changelog: str, reason: str) -> None:
    with pytest.raises(NotReleasable, match=reason):
        release_notes(version, changelog=changelog, package_version=package)


def test_the_program_needs_nothing_installed_and_says_what_is_missing() -> None:
    program = subprocess.run(
        [sys.executable, "-I", "-S", ROOT / "deploy/release_notes.py", "999.0.0"], capture_output=True, text=True
    )
    assert program.returncode == 1
    assert program.stdout == ""
    assert "The tag says 999.0.0" in program.stderr
