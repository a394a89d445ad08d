"""Trees of files that stand in for images where there is no container engine: a bare Debian, and copies of it.

What this machine needs to reach Debian's and Python's packages (proxies, certificates, pip's options) is taken from its
own configuration and handed in.
"""

import ast
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deploy.checks import debian
from deploy.checks.debian import TOOLS
from deploy.checks.failures import CheckFailed
from deploy.checks.running import run

SUITE: Final = "trixie"
# What python:…-slim-trixie has beside Python itself, whose place Debian's own of the same release takes; and the client
# programs that the servers' images have, so that one tree does for all.
_PACKAGES: Final = ("ca-certificates", "netbase", "tzdata", "python3", "python3-venv", "valkey-tools", "wget")
# As in Docker's images of Debian: a half-built one is thrown away, and the slim ones have no manuals.
_DPKG_OPTIONS: Final = (
    "force-unsafe-io",
    *(f"path-exclude=/usr/share/{folder}/*" for folder in ("doc", "info", "locale", "man")),
)
TIMEOUT_S: Final = 600.0
_TRANSPORT: Final = re.compile(r"SSL_.+|(https?|no)_proxy", re.IGNORECASE)


def require_root() -> None:
    """Raise CheckFailed unless this process may make trees in which files have several owners."""
    if os.geteuid() != 0:
        raise CheckFailed(
            "Packages are installed into a tree of their own, which only root can do: sudo make check-deploy "
            "CHECK=container. What it makes is in .tools and in a temporary folder."
        )


def base_tree() -> Path:
    """A bare Debian with Python; made once, kept in .tools, and never to be written to."""
    digest = hashlib.sha256(repr((SUITE, _PACKAGES, _DPKG_OPTIONS)).encode()).hexdigest()[:16]
    place = TOOLS / "trees" / f"{SUITE}-{digest}"
    program = debian.ensure("mmdebstrap", binary="mmdebstrap")
    with debian.lock():
        if not place.exists():
            partial = place.with_name(f"{place.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.parent.mkdir(exist_ok=True)
            options = ["--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(_PACKAGES)}"]
            options += [f"--dpkgopt={line}" for line in _DPKG_OPTIONS]
            options += [f"--aptopt={line}" for line in _apt_proxies()]
            # Its own helper, mmtarfilter, is on this PATH.
            environment = {**os.environ, "PATH": debian.environment()["PATH"]}
            run([program, *options, SUITE, partial, *_mirror()], timeout_s=TIMEOUT_S, environment=environment)
            (partial / "usr/local/bin/python").symlink_to("/usr/bin/python3")  # where the image has it
            partial.rename(place)
    return place


def copy_tree(source: Path, target: Path) -> Path:
    """A copy that can be written to."""
    run(["cp", "--archive", "--reflink=auto", source, target], timeout_s=TIMEOUT_S)
    return target


def inside(tree: Path, path: str) -> Path:
    """Where a path of the tree is for us: its links are followed as they lead inside, and never out of the tree."""
    found = Path("/")
    for _ in range(40):  # as many links as the kernel follows
        for part in Path(path).parts[1:]:
            found = found.parent if part == ".." else found / part
            here = tree / found.relative_to("/")
            if here.is_symlink():
                rest = Path(path).parts[len(found.parts) :]
                path = str(found.parent / here.readlink() / Path(*rest))
                found = Path("/")
                break
        else:
            return tree / found.relative_to("/")
    raise CheckFailed(f"{path} goes round in circles.")


def transport_environment() -> dict[str, str]:
    """The variables by which programs inside reach the package registries that this machine uses."""
    inherited = {name: value for name, value in os.environ.items() if _TRANSPORT.fullmatch(name)}
    return {**inherited, **_pip_options()}


def transport_files() -> list[Path]:
    """The files and folders that those variables name: certificates, and packages that are on this machine."""
    words = " ".join(transport_environment().values()).replace("file://", "").replace("/simple", "").split()
    return sorted({Path(word) for word in words if word.startswith("/") and Path(word).exists()})


def _pip_options() -> dict[str, str]:
    """All of pip's options that its files and the environment set, as variables."""
    options = {}
    for line in run([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        name, _, value = line.partition("=")
        options[f"PIP_{name.rpartition('.')[2].replace('-', '_').upper()}"] = str(ast.literal_eval(value))
    return options


def _apt_proxies() -> Iterator[str]:
    if shutil.which("apt-config") is None:
        return
    for line in run(["apt-config", "dump"]).splitlines():
        if re.match(r'Acquire::https?::Proxy(::\S+)? "."', line):
            yield line


def _mirror() -> list[str]:
    """Where this machine gets Debian from; nothing leaves that to mmdebstrap."""
    if shutil.which("apt-get") is None:
        return []
    fields = ["--format", "$(REPO_URI) $(ORIGIN) $(LABEL)", "Created-By: Packages"]
    for line in run(["apt-get", "indextargets", *fields]).splitlines():
        address, _, publisher = line.partition(" ")
        if publisher == "Debian Debian":
            return [address]
    return []
