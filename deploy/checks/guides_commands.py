"""What a guide's code may say: the product's commands, Compose's services, units, make's targets, and settings."""

import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

from deploy.checks.commands import misuse
from deploy.checks.compose_file import example_variables, read_services, variables_of_compose
from deploy.checks.debian import ROOT
from deploy.checks.environment import settings_variables
from deploy.checks.files import DEPLOY
from deploy.checks.units import read_units
from zenzefi.app import ROUTES

_VARIABLE: Final = re.compile(r"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(=.*)?", re.DOTALL)
_PLACEHOLDER: Final = re.compile(r"…|\.\.\.|[<>{}\[\]]|\b[A-Z]{2,}\b")
# Options of docker compose, and of its subcommands, that take the next word.
_WITH_VALUE: Final = re.compile(
    r"--(profile|file|project-name|env-file|project-directory|tail|entrypoint|user|env|scale|timeout|index)|-[fpnuet]"
)
_SECRET: Final = re.compile(r"(?<![\w-])secrets/([a-z_0-9]+)\b(?![/.-])")
_ROUTE: Final = re.compile(r"\b(?:GET|POST|PATCH|DELETE) /api/v1/[a-z0-9/{}_-]+")
_TAKES_COMMAND: Final = ("exec", "run")
_OF_OURS: Final = ("migrate", "web", "worker", "worker-heavy")
_MACHINE: Final = ("systemctl", "journalctl")
# What libpq, Docker, GitHub, the rollout script, load tests and the like read.
_OF_OTHERS: Final = re.compile(
    r"PG[A-Z]+|SSL_CERT_FILE|OTEL_\w+|GRAFANA_\w+|COMPOSE_\w+|POSTGRES_MAJOR|AWS_\w+"
    r"|DOCKER_\w+|SERVER_\w+|SSH_\w+|GITHUB_\w+|ROLLOUT_\w+|ZENZEFI_HOME|ZENZEFI_ROOT|LOADTEST_\w+|AIOHTTP_NO_EXTENSIONS"
    r"|NAME_FILE|TIME_WAIT|POD_\w+|CAP_\w+|NET_\w+|WEB_INSTANCES|NGINX_\w+|ACME_\w+|CERTBOT_\w+"
)


def find_wrong_words(line: str, *, is_span: bool) -> Iterator[str]:
    """What does not exist of that which a line of a shell, or code within a sentence, names."""
    yield from (f"there is no secret {name}" for name in _SECRET.findall(line) if name not in _secrets())
    yield from (f"there is no route {route}" for route in _ROUTE.findall(line) if not _is_route(*route.split()))
    if is_span and (match := _VARIABLE.fullmatch(line.strip())):
        yield from _find_unknown_variable(match[1])
    if line.lstrip().startswith("#"):
        return
    for words in _split(line):
        for position, word in enumerate(words):
            if (match := _VARIABLE.fullmatch(word)) and match[2]:
                if position == 0 or words[0] == "export":
                    yield from _find_unknown_variable(match[1])
            elif word == "zenzefi" and position + 1 < len(words) and _is_command_name(words, position):
                yield from _find_misuse(words[position + 1 :])
                break
        yield from _find_in_tools(words)


def _split(line: str) -> Iterator[list[str]]:
    """The commands of a line, each as its words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        words = line.split()  # a quotation that goes on in the next line
    command: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif re.fullmatch(r"[()<>|&;]+", word):
            if "<" in word or ">" in word:
                skip = True
            else:
                yield command
                command = []
        else:
            command.append(word)
    yield command


def _is_command_name(words: Sequence[str], position: int) -> bool:
    """Whether `zenzefi` stands where a program does, and its first argument is one."""
    before = words[:position]
    runs = not before or before[-1] in ("-m", "then", "exec") or before[0] == "docker" or _VARIABLE.match(before[-1])
    return bool(runs) and re.fullmatch(r"-?[a-z-]+", words[position + 1]) is not None


def _find_misuse(arguments: Sequence[str]) -> Iterator[str]:
    given = list(arguments)
    if any("…" in word for word in given):
        given = [word for word in given if "…" not in word]
    problem = misuse(given)
    # A sentence may name a command without what it needs, and say USER for a user.
    if problem.startswith("Missing ") or (problem.startswith("Invalid value") and _PLACEHOLDER.search(" ".join(given))):
        return
    if problem:
        yield problem


def _find_in_tools(words: Sequence[str]) -> Iterator[str]:
    if words[:1] == ["sudo"]:
        words = words[1:]
    if words[:2] == ["docker", "compose"]:
        yield from _find_in_compose(words[2:])
    elif words and words[0] in _MACHINE:
        for word in words[1:]:
            if word.startswith("zenzefi") and "*" not in word and not _is_unit(word):
                yield f"there is no unit {word}"
    elif words[:1] == ["make"]:
        yield from _find_in_make(words[1:])


def _find_in_compose(words: Sequence[str]) -> Iterator[str]:
    plain: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if _WITH_VALUE.fullmatch(word):
            rest = rest[1:]
        elif not word.startswith("-"):
            plain.append(word)
            if plain[0] in _TAKES_COMMAND and len(plain) == 2:
                break
        if plain[:1] == ["config"]:
            return
    if not plain or len(plain) < 2:
        return
    services = plain[1:2] if plain[0] in _TAKES_COMMAND else plain[1:]
    unknown = [name for name in services if name not in _services() and not _PLACEHOLDER.search(name)]
    yield from (f"there is no service {name}" for name in unknown)
    if plain[0] == "run" and plain[1] in _OF_OURS and rest:
        yield from _find_misuse(rest)
    if plain[0] == "exec" and rest[:1] == ["zenzefi"]:
        yield from _find_misuse(rest[1:])


def _find_in_make(words: Sequence[str]) -> Iterator[str]:
    from deploy.checks.__main__ import CHECKS  # late: it imports this

    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets is not None
    for word in words:
        name, is_assignment, value = word.partition("=")
        if name == "CHECK":
            yield from (f"there is no check {each}" for each in value.split() if each not in CHECKS)
        elif not is_assignment and re.fullmatch(r"[a-z-]+", word) and word not in targets[1].split():
            yield f"there is no target {word}"


def _find_unknown_variable(name: str) -> Iterator[str]:
    known = _known_variables()
    if name.removesuffix("_FILE") not in known and name not in known and not _OF_OTHERS.fullmatch(name):
        yield f"nobody reads {name}"


@cache
def _services() -> set[str]:
    return set(read_services(example_variables()))


@cache
def _secrets() -> set[str]:
    """What make-secrets.sh makes."""
    text = (DEPLOY / "docker/make-secrets.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    lists = re.findall(r"^for name in (.*); do$", text, re.MULTILINE)
    return {*(name for names in lists for name in names.split()), *re.findall(r"write ([a-z_]+) <", text)}


def _is_route(method: str, path: str) -> bool:
    return any(
        route.method == method and re.sub(r"{[^}]*}", "{}", route.path) == re.sub(r"{[^}]*}", "{}", path)
        for route in ROUTES
    )


@cache
def _known_variables() -> set[str]:
    nginx = re.findall(r"`([A-Z_]+)`", (DEPLOY / "nginx/README.md").read_text(encoding="utf-8"))
    return settings_variables() | variables_of_compose() | set(nginx)


def _is_unit(name: str) -> bool:
    units = read_units()
    return name in units or f"{name}.service" in units
