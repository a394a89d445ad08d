"""Which files of the project the image builder gets to see: .dockerignore, read as the builder reads it."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

Rule = tuple[re.Pattern[str], str, bool]
"""What it matches, the pattern itself, and whether it lets in what an earlier one kept out."""


def read_rules(file: Path) -> list[Rule]:
    """The patterns of a .dockerignore, in their order."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    patterns = (
        (line.removeprefix("!").strip("/"), line.startswith("!")) for line in lines if line[:1] not in ("", "#")
    )
    return [(_expression(pattern), pattern, lets_in) for pattern, lets_in in patterns]


def build_context(root: Path, rules: Sequence[Rule]) -> list[Path]:
    """All files below `root` that the builder gets, relative to it."""
    files: list[Path] = []
    for folder, folders, names in os.walk(root):
        here = Path(folder).relative_to(root)
        # A folder that is kept out is looked into only if a pattern lets in something that may be inside of it.
        folders[:] = [name for name in folders if not is_kept_out(here / name, rules) or _may_hold(here / name, rules)]
        files += [here / name for name in names if not is_kept_out(here / name, rules)]
    return files


def is_kept_out(path: Path, rules: Sequence[Rule]) -> bool:
    """Whether the last pattern that matches the path, or a folder that it is in, keeps it out."""
    ways = [str(path), *(str(parent) for parent in path.parents if parent != Path())]
    matching = [lets_in for expression, _, lets_in in rules if any(expression.fullmatch(way) for way in ways)]
    return bool(matching) and not matching[-1]


def _may_hold(folder: Path, rules: Sequence[Rule]) -> bool:
    return any(lets_in and pattern.startswith((f"{folder}/", "**")) for _, pattern, lets_in in rules)


def _expression(pattern: str) -> re.Pattern[str]:
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return re.compile("".join(parts.get(piece, re.escape(piece)) for piece in pieces))
