"""The guides: every link, file, command, option, service, unit, setting and make target that they name exists."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

from deploy.checks.debian import ROOT
from deploy.checks.failures import CheckFailed, require
from deploy.checks.files import DEPLOY
from deploy.checks.guides_commands import find_wrong_words

# Documents for people who run the product.
_GUIDES: Final = ("README.md", "SECURITY.md", "migrations/README.md", "loadtest/README.md")
# The first folders of the project; what begins otherwise is relative to somewhere else.
_ROOTS: Final = ("deploy", "loadtest", "migrations", "tests", "workers", "zenzefi", ".github")
_PATH: Final = re.compile(rf"(?:{'|'.join(map(re.escape, _ROOTS))})/[A-Za-z0-9_./*-]+")
# Made by what they stand beside, or by nobody yet.
_MADE: Final = ("loadtest/reports", "loadtest/results", "loadtest/.env")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """A document, as its parts."""

    path: Path
    tokens: tuple[Token, ...]

    @property
    def name(self) -> str:
        """Its path in the project."""
        return str(self.path.relative_to(ROOT))

    def inline(self) -> Iterator[Token]:
        """All that stands within text."""
        for token in self.tokens:
            yield from token.children or ()

    def spans(self) -> Iterator[str]:
        """Code within text."""
        return (token.content for token in self.inline() if token.type == "code_inline")

    def blocks(self) -> Iterator[str]:
        """Code for a shell."""
        return (token.content for token in self.tokens if token.type == "fence" and token.info in ("sh", "bash"))

    def links(self) -> Iterator[str]:
        """Where links lead."""
        return (str(token.attrGet("href")) for token in self.inline() if token.type == "link_open")

    def anchors(self) -> set[str]:
        """The headings, as GitHub names them in addresses."""
        pairs = zip(self.tokens, self.tokens[1:], strict=False)
        headings = [after.content for before, after in pairs if before.type == "heading_open"]
        return {_anchor(heading) for heading in headings}


def check_guides() -> None:
    """Raise CheckFailed with what does not exist."""
    paths = [*(ROOT / name for name in _GUIDES), *sorted(DEPLOY.rglob("*.md"))]
    guides = {path: _read(path) for path in paths}
    findings = [
        f"{guide.name}: {finding}"
        for guide in guides.values()
        for finding in (*_find_dead_links(guide, guides), *_find_missing_files(guide), *_find_wrong_code(guide))
    ]
    require(findings, what="guides")
    _require_watchful()


def _read(path: Path) -> Guide:
    parser = MarkdownIt("commonmark").enable("table")
    return Guide(path=path, tokens=tuple(parser.parse(path.read_text(encoding="utf-8"))))


def _anchor(heading: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", heading.lower())
    return kept.replace(" ", "-")


def _find_dead_links(guide: Guide, guides: dict[Path, Guide]) -> Iterator[str]:
    for link in guide.links():
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (guide.path.parent / name).resolve() if name else guide.path
        if not target.exists():
            yield f"the link {link} leads nowhere"
        elif anchor and anchor not in (guides.get(target) or _read(target)).anchors():
            yield f"{link}: there is no such heading"


def _find_missing_files(guide: Guide) -> Iterator[str]:
    for text in (*guide.spans(), *guide.blocks()):
        for match in _PATH.finditer(text):
            path = match[0].rstrip(".")
            before = text[: match.start()][-1:]
            if before in ("/", "@", "-", ".") or path.startswith(_MADE) or text[match.end() :][:1] in ("…", "<", "{"):
                continue  # a part of a longer path or name, or of one that somebody else chooses
            if not any(any(folder.glob(path)) for folder in (ROOT, guide.path.parent, *DEPLOY.glob("*/"))):
                yield f"{path} does not exist"


def _find_wrong_code(guide: Guide) -> Iterator[str]:
    for text in guide.spans():
        yield from (f"`{text}`: {finding}" for finding in find_wrong_words(text, is_span=True))
    for text in guide.blocks():
        for line in text.replace("\\\n", " ").splitlines():
            yield from (f"{line.strip()}: {finding}" for finding in find_wrong_words(line, is_span=False))


def _require_watchful() -> None:
    """Whether this check would see the mistakes that it is for."""
    mistakes = (
        "zenzefi backup restor",
        "zenzefi doctor --productive",
        "python -m zenzefi serve --workers 2",
        "docker compose exec webb zenzefi doctor",
        "docker compose exec web zenzefi docter",
        "docker compose run --rm --no-deps worker-heavy backup restore --sure",
        "docker compose logs --tail 100 web wroker",
        "systemctl restart zenzefi-webb",
        "journalctl -u zenzefi-workers",
        "make check-deplot",
        'make check-deploy CHECK="guide"',
        "POSTGRES_SERVERS=db python -m zenzefi serve",
        "cat secrets/secret_keys",
        "POST /api/v1/auth/change-passwords",
    )
    missed = [line for line in mistakes if not list(find_wrong_words(line, is_span=False))]
    if missed:
        raise CheckFailed(f"This check does not see what is wrong with: {'; '.join(missed)}")
