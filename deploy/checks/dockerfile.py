"""The Dockerfile, as its instructions, and what hadolint and we ask of it."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any, Final

from deploy.checks.debian import ROOT
from deploy.checks.failures import CheckFailed, require
from deploy.checks.running import run
from deploy.checks.tools import python_tool

DOCKERFILE: Final = ROOT / "Dockerfile"
# What the images are called by docker-compose.yml, the workflows and deploy/k8s.
IMAGES: Final = ("web", "worker")
_UNDERSTOOD: Final = frozenset(
    {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "SHELL", "STOPSIGNAL"}
    | {"USER", "WORKDIR"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction, its continuation lines joined; `options` are its leading --name=value."""

    line: int
    name: str
    options: Sequence[tuple[str, str]]
    text: str

    def words(self) -> list[str]:
        """The arguments: of the JSON form, else split as a shell does."""
        if self.text.startswith("["):
            return [str(part) for part in json.loads(self.text)]
        return shlex.split(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A FROM and what follows it."""

    name: str
    parent: str
    instructions: Sequence[Instruction]


@dataclass(slots=True, kw_only=True)
class Image:
    """What an image says of how its containers run."""

    environment: dict[str, str]
    shell: Sequence[str] = ("/bin/sh", "-c")
    user: str = "0:0"
    working_directory: str = "/"
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    health: Sequence[str] = ()
    stop_signal: str = "SIGTERM"

    def apply(self, instruction: Instruction, arguments: Mapping[str, str]) -> None:
        """Take over what one instruction changes; RUN and COPY change nothing here."""
        text = substitute(instruction.text, {**arguments, **self.environment})
        match instruction.name:
            case "ENV":
                self.environment.update(_pairs(text))
            case "SHELL":
                self.shell = instruction.words()
            case "USER":
                self.user = text
            case "WORKDIR":
                self.working_directory = text
            case "ENTRYPOINT":
                self.entrypoint = instruction.words()
            case "CMD":
                self.command = instruction.words()
            case "STOPSIGNAL":
                self.stop_signal = text
            case "HEALTHCHECK":
                keyword, _, command = instruction.text.partition(" ")
                self.health = json.loads(command) if keyword == "CMD" else ()


def read_stages() -> dict[str, Stage]:
    """All stages by name, in their order; raises CheckFailed when there is something that this module cannot read."""
    stages: dict[str, Stage] = {}
    collected: list[Instruction] = []
    for instruction in _instructions():
        if instruction.name not in _UNDERSTOOD:
            raise CheckFailed(f"Dockerfile:{instruction.line}: {instruction.name} is not known to the checks.")
        if instruction.name == "FROM":
            parent, _, name = instruction.text.partition(" AS ")
            collected = []
            stages[name] = Stage(name=name, parent=parent, instructions=collected)
        elif stages:
            collected.append(instruction)
    return stages


def lineage(stages: Mapping[str, Stage], name: str) -> list[Stage]:
    """A stage and all that it builds on, the lowest first."""
    stage = stages[name]
    return [*(lineage(stages, stage.parent) if stage.parent in stages else ()), stage]


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """Put in the variables, as the builder does; one that is not known stays."""
    return Template(text).safe_substitute(variables)


def check_dockerfile() -> None:
    """Raise CheckFailed with what hadolint finds, or what our images must not be."""
    run([python_tool("hadolint"), "--no-color", "--config", ROOT / ".hadolint.yaml", DOCKERFILE])
    stages = read_stages()
    require(_findings(stages), what="Dockerfile")


def describe(stages: Mapping[str, Stage], name: str) -> Image:
    """What the image of a stage says, without building it."""
    image, arguments = Image(environment={"PATH": "/usr/local/bin:/usr/bin:/bin"}), dict[str, str]()
    for stage in lineage(stages, name):
        for instruction in stage.instructions:
            if instruction.name == "ARG":
                arguments.update(_pairs(instruction.text))
            image.apply(instruction, arguments)
    return image


def _findings(stages: Mapping[str, Stage]) -> Iterator[str]:
    for name in IMAGES:
        yield from _unfit(name, describe(stages, name)) if name in stages else [f"there is no stage {name}"]
    for stage in stages.values():
        tag = stage.parent.rpartition(":")[2]
        if stage.parent not in stages and not re.search(r"\d+\.\d+", tag):
            yield f"{stage.parent} is not pinned to a release"
        for instruction in stage.instructions:
            if instruction.name == "RUN" and _installs_anything(instruction.text):
                yield f"line {instruction.line} installs what no hash names"


def _unfit(name: str, image: Image) -> Iterator[str]:
    if not re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", image.user):
        yield f"{name} runs as {image.user}, not as a number other than 0"
    if list(image.health[:1]) != ["python"]:
        yield f"{name} has no health check in Python"
    if list(image.entrypoint[:1]) != ["/usr/bin/tini"]:
        yield f"{name} has no init: commands that do not listen to SIGTERM would not end by it"


def _installs_anything(command: str) -> bool:
    """Whether pip would fetch what no lock file names."""
    fetches = re.search(r"\bpip\b.* (install|wheel) ", command) is not None
    return fetches and "--require-hashes" not in command and "--no-index" not in command


def _instructions() -> Iterator[Instruction]:
    pending, first = "", 0
    for number, line in enumerate(DOCKERFILE.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("#") or (not line.strip() and not pending):
            continue
        first = first if pending else number
        pending += line.strip()
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        yield _parse(pending, first)
        pending = ""


def _parse(line: str, number: int) -> Instruction:
    name, _, text = line.partition(" ")
    options: list[tuple[str, str]] = []
    while match := re.match(r"--([a-z-]+)=(\S+)\s+", text := text.lstrip()):
        options.append((match[1], match[2]))
        text = text[match.end() :]
    return Instruction(line=number, name=name.upper(), options=options, text=text)


def _pairs(text: str) -> dict[str, Any]:
    return dict(word.split("=", 1) for word in shlex.split(text) if "=" in word)
