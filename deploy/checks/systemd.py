"""The units of deploy/systemd and deploy/backup: systemd accepts them, they confine, and what they name exists."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from deploy.checks import debian
from deploy.checks.commands import misuse
from deploy.checks.environment import settings_variables
from deploy.checks.failures import CheckFailed, require
from deploy.checks.files import DEPLOY
from deploy.checks.running import run
from deploy.checks.units import PYTHON, RELEASE, SYSTEMD, Unit, read_units, seconds_of
from zenzefi.settings import Settings

# Tenths of systemd's exposure: 0 is a unit that can do nothing, 96 one that is not confined at all.
_MAX_EXPOSURE: Final = 17
# What a supervisor or a worker takes beyond DRAIN_TIMEOUT until it is gone; see zenzefi.server.supervisor.
_KILL_MARGIN_S: Final = 5.0
_INTERPRETERS: Final = {"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONSAFEPATH"}


def check_systemd() -> None:
    """Raise CheckFailed with what is wrong."""
    units = read_units()
    _verify(units)
    require(
        [finding for unit in units.values() for finding in _find_in(unit)]
        + list(_find_unknown_users(units))
        + list(_find_wrong_order(units)),
        what="units",
    )


def tool(name: str) -> tuple[Path, dict[str, str]]:
    """A program of systemd, and the environment that it needs."""
    program = debian.ensure("systemd", binary=name)
    environment = debian.environment()
    # Its own library is in a folder of its own, where an unpacked program does not look.
    libraries = [str(path) for path in sorted(debian.packaged("/usr/lib").glob("*-linux-gnu/systemd"))]
    path = os.pathsep.join(filter(None, [*libraries, environment.get("LD_LIBRARY_PATH", "")]))
    return program, {**environment, **({"LD_LIBRARY_PATH": path} if path else {})}


def allowed_calls(folder: Path, unit: Unit) -> Path:
    """A file with the system calls that SystemCallFilter= leaves."""
    analyze, environment = tool("systemd-analyze")
    listing = run([analyze, "syscall-filter", "--no-pager"], environment=environment)
    groups: dict[str, list[str]] = {}
    for line in listing.splitlines():
        if line.startswith("@"):
            groups[line] = members = []
        elif line.strip() and not line.strip().startswith("#") and line.startswith(" "):
            members.append(line.strip())

    def expand(name: str) -> set[str]:
        return {name} if not name.startswith("@") else {each for member in groups[name] for each in expand(member)}

    calls: set[str] = set()
    for value in unit.all("SystemCallFilter"):
        # Whoever runs the check as root has an nginx that gives its folders and its workers to another user, which the
        # unit has another user for in the first place.
        if os.geteuid() == 0 and "zenzefi-nginx" in unit.name and value.startswith("~"):
            continue
        change: Callable[[set[str]], None] = calls.difference_update if value.startswith("~") else calls.update
        for name in value.removeprefix("~").split():
            change(expand(name))
    if len(calls) < 100 or "mount" in calls:
        raise CheckFailed(f"SystemCallFilter= leaves {len(calls)} system calls.")
    path = folder / f"{unit.name}.calls"
    path.write_text("\n".join(sorted(calls)))
    return path


def _verify(units: Mapping[str, Unit]) -> None:
    analyze, environment = tool("systemd-analyze")
    with tempfile.TemporaryDirectory(prefix="zenzefi-units-") as folder:
        root = Path(folder)
        place = _lay_out(root, units.values())

        def verify(names: Iterable[str]) -> str:
            command: list[str | Path] = [analyze, "verify", f"--root={root}", "--man=no", "--recursive-errors=no"]
            return run([*command, *(place / name for name in names)], environment=environment)

        verify(units)
        for name in units:
            if name.endswith(".service"):
                options = ["--offline=true", f"--root={root}", f"--threshold={_MAX_EXPOSURE}", "--no-pager"]
                run([analyze, "security", *options, name], environment=environment)
        # systemd skips what it does not understand. That this is an error here is shown by a word that it cannot know.
        broken = place / "zenzefi-web.service"
        broken.write_text(broken.read_text().replace("ProtectSystem=strict", "ProtectSytem=strict"))
        try:
            verify(["zenzefi-web.service"])
        except CheckFailed:
            return
        raise CheckFailed("systemd-analyze verify lets a misspelt assignment pass.")


def _lay_out(root: Path, units: Iterable[Unit]) -> Path:
    """A machine with these units and the programs that they start."""
    place = root / "etc/systemd/system"
    place.mkdir(parents=True)
    for unit in units:
        shutil.copy(unit.path, place)
        for program in {words[0] for words in [*unit.commands(), *(line.split() for line in unit.all("ExecReload"))]}:
            stub = root / program.removeprefix("/")
            stub.parent.mkdir(parents=True, exist_ok=True)
            stub.write_text("#!/bin/sh\n")
            stub.chmod(0o755)
    # What comes with systemd, and is waited for.
    for name in ("network-online", "sysinit", "basic", "shutdown", "multi-user", "sockets", "timers"):
        (place / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
    return place


def _find_in(unit: Unit) -> Iterator[str]:
    for words in unit.commands():
        yield from (f"{unit.name}: {finding}" for finding in _find_in_command(words))
    yield from (f"{unit.name}: {finding}" for finding in _find_in_environment(unit))
    stop = unit.last("TimeoutStopSec")
    drain_s = Settings.from_env({"SECRET_KEY": "0123456789abcdefghijklmnopqrstuvw"}).drain_timeout_s
    if unit.last("Type") in ("notify", "exec") and PYTHON in " ".join(unit.all("ExecStart")):
        if seconds_of(stop) < drain_s + _KILL_MARGIN_S:
            yield f"{unit.name}: TimeoutStopSec={stop} ends what may drain for {drain_s:g} s"
        if not unit.all("MemoryMax") or not unit.all("TasksMax") or unit.last("Restart") != "always":
            yield f"{unit.name}: MemoryMax=, TasksMax= or Restart=always is missing"


def _find_in_command(words: list[str]) -> Iterator[str]:
    for word in words:
        path = word.removeprefix(RELEASE + "/")
        if path != word and not path.startswith(".venv/") and not (debian.ROOT / path).exists():
            yield f"{word} is not in the release"
    if PYTHON in words:
        module, *arguments = words[words.index(PYTHON) + 2 :]
        if module != "zenzefi":
            yield f"{module} is not the product"
        elif problem := misuse(arguments):
            yield f"zenzefi {' '.join(arguments)}: {problem}"
        for name, value in (word.split("=", 1) for word in words[1 : words.index(PYTHON)]):
            Settings.from_env({"SECRET_KEY": "0123456789abcdefghijklmnopqrstuvw", name: value})
            if name not in settings_variables():
                yield f"{name} is no setting"


def _find_in_environment(unit: Unit) -> Iterator[str]:
    known, credentials = settings_variables(), unit.credentials()
    is_ours = PYTHON in " ".join(unit.all("ExecStart"))
    front = set(re.findall(r"`([A-Z_]+)`", (DEPLOY / "nginx/README.md").read_text(encoding="utf-8")))
    used = set()
    for name, value in unit.environment().items():
        variable = name.removesuffix("_FILE")
        if variable not in (known | _INTERPRETERS if is_ours else front):
            yield f"{name} is read by nobody"
        if value.startswith("%d/"):
            used.add(value.removeprefix("%d/"))
            if value.removeprefix("%d/") != variable.lower():
                yield f"{name}={value} is another secret"
    yield from (f"LoadCredential={name} is not used" for name in sorted(credentials.keys() - used))
    yield from (f"%d/{name} is not loaded" for name in sorted(used - credentials.keys()))
    made = (DEPLOY / "docker/make-secrets.sh").read_text(encoding="utf-8")
    yield from (f"make-secrets.sh does not make {name}" for name in sorted(used) if not re.search(rf"\b{name}\b", made))
    for name, path in credentials.items():
        if path != f"/etc/zenzefi/secrets/{name}":
            yield f"LoadCredential={name} comes from {path}"


def _find_unknown_users(units: Mapping[str, Unit]) -> Iterator[str]:
    lines = (SYSTEMD / "sysusers.conf").read_text(encoding="utf-8").splitlines()
    declared = {line.split()[1] for line in lines if line and not line.startswith("#")} | {"root"}
    for unit in units.values():
        for key in ("User", "Group", "SupplementaryGroups"):
            yield from (f"{unit.name}: {key}={name} is nobody" for name in unit.all(key) if name not in declared)
        if unit.name.endswith(".service") and not unit.last("User"):
            yield f"{unit.name}: it would run as root"
    for line in (SYSTEMD / "tmpfiles.conf").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            _, path, _, *owners = line.split()
            yield from (f"{path}: {name} is nobody" for name in owners if name not in declared)
    folders = (SYSTEMD / "tmpfiles.conf").read_text(encoding="utf-8")
    for unit in units.values():
        for path in " ".join(unit.all("ReadWritePaths")).split():
            if f"{path} " not in folders:
                yield f"{unit.name}: nobody makes {path}"


def _find_wrong_order(units: Mapping[str, Unit]) -> Iterator[str]:
    for unit in units.values():
        for key in ("Requires", "Wants", "After", "PartOf", "WantedBy"):
            for name in " ".join(unit.all(key)).split():
                if name.startswith("zenzefi") and name not in units:
                    yield f"{unit.name}: {key}={name} does not exist"
        for name in " ".join(unit.all("Requires")).split():
            if name not in " ".join(unit.all("After")).split():
                yield f"{unit.name}: it requires {name}, and does not wait for it"
