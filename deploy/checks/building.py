"""Carries out the Dockerfile in trees of files: each RUN as it stands there, COPY by .dockerignore, a tree a stage."""

import copy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from deploy.checks.boxes import Box, Mount
from deploy.checks.build_context import build_context, read_rules
from deploy.checks.debian import ROOT, TOOLS
from deploy.checks.dockerfile import Image, Instruction, Stage, substitute
from deploy.checks.failures import CheckFailed
from deploy.checks.running import run
from deploy.checks.trees import TIMEOUT_S, copy_tree, inside, transport_environment, transport_files

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CACHE: Final = TOOLS / "build-cache"
_CHANGES_FILES: Final = frozenset({"COPY", "RUN", "WORKDIR"})


class Builder:
    """Builds stages in trees below a folder, each once. `base` stands in for the image that the Dockerfile begins with.

    A RUN in whose text `out_of_reach` occurs needs what this machine cannot reach; it is left out, and listed.
    """

    def __init__(self, stages: Mapping[str, Stage], folder: Path, *, base: Path, out_of_reach: str) -> None:
        self._stages = stages
        self._folder = folder
        self._base = base
        self._out_of_reach = out_of_reach
        self._context = build_context(ROOT, read_rules(ROOT / ".dockerignore"))
        self.trees: dict[str, Path] = {}
        self.images: dict[str, Image] = {}
        self.done: list[Instruction] = []
        self.left_out: list[Instruction] = []

    def build(self, name: str) -> None:
        """Build a stage and those that it needs; raises CheckFailed with what a step said."""
        if name in self.trees:
            return
        stage = self._stages[name]
        for needed in self._needs(stage):
            self.build(needed)
        tree = self.trees.get(stage.parent, self._base)
        if any(instruction.name in _CHANGES_FILES for instruction in stage.instructions):
            tree = copy_tree(tree, self._folder / name)
        image = copy.deepcopy(self.images.get(stage.parent, Image(environment={"PATH": _PATH})))
        arguments: dict[str, str] = {}
        for instruction in stage.instructions:
            self._carry_out(instruction, tree, image, arguments)
        self.trees[name], self.images[name] = tree, image

    def _needs(self, stage: Stage) -> list[str]:
        sources = [dict(instruction.options).get("from", "") for instruction in stage.instructions]
        return [name for name in (stage.parent, *sources) if name in self._stages]

    def _carry_out(self, instruction: Instruction, tree: Path, image: Image, arguments: dict[str, str]) -> None:
        match instruction.name:
            case "ARG":
                name, _, default = instruction.text.partition("=")
                arguments[name] = default
            case "RUN" if self._out_of_reach in instruction.text:
                self.left_out.append(instruction)
            case "RUN":
                self._run(instruction, tree, image, arguments)
                self.done.append(instruction)
            case "COPY":
                self._copy(instruction, tree, image)
        image.apply(instruction, arguments)
        if instruction.name == "WORKDIR":
            inside(tree, image.working_directory).mkdir(parents=True, exist_ok=True)

    def _run(self, instruction: Instruction, tree: Path, image: Image, arguments: Mapping[str, str]) -> None:
        transport = [Path("/etc/resolv.conf"), *transport_files()]
        mounts = [Mount(target=str(path), source=path.resolve()) for path in transport]
        mounts += [_mount(value, image) for name, value in instruction.options if name == "mount"]
        box = Box(
            tree=tree,
            writable=True,
            working_directory=image.working_directory,
            mounts=mounts,
            environment={"HOME": "/root", **image.environment, **arguments, **transport_environment()},
        )
        try:
            run(box.command([*image.shell, instruction.text]), timeout_s=TIMEOUT_S)
        except CheckFailed as failure:
            raise CheckFailed(f"Dockerfile:{instruction.line}: RUN {instruction.text}\n{failure}") from None

    def _copy(self, instruction: Instruction, tree: Path, image: Image) -> None:
        *sources, target = substitute(instruction.text, image.environment).split()
        place = inside(tree, str(Path(image.working_directory) / target))
        into_folder = target.endswith("/") or len(sources) > 1
        for source in sources:
            if origin := dict(instruction.options).get("from"):
                place.parent.mkdir(parents=True, exist_ok=True)
                copy_tree(inside(self.trees[origin], source), place)
            else:
                self._copy_from_context(Path(source), place, into_folder=into_folder, line=instruction.line)

    def _copy_from_context(self, source: Path, place: Path, *, into_folder: bool, line: int) -> None:
        found = [file for file in self._context if file == source or source in file.parents]
        if not found:
            raise CheckFailed(f"Dockerfile:{line}: .dockerignore keeps {source} out, or it does not exist.")
        for file in found:
            if file == source:
                target = place / source.name if into_folder else place
            else:
                target = place / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, target)


def _mount(option: str, image: Image) -> Mount:
    """What RUN --mount=… asks for."""
    fields = dict(part.split("=", 1) for part in option.split(","))
    target = str(Path(image.working_directory) / fields["target"])
    match fields["type"]:
        case "cache":
            cache = _CACHE / target.strip("/").replace("/", "-")
            cache.mkdir(parents=True, exist_ok=True)
            return Mount(target=target, source=cache, writable=True)
        case "bind":
            return Mount(target=target, source=ROOT / fields["source"])
    raise CheckFailed(f"RUN --mount=type={fields['type']} is not known to the checks.")


def lines(instructions: Sequence[Instruction]) -> str:
    """Where in the Dockerfile these are."""
    return ", ".join(str(instruction.line) for instruction in instructions)
