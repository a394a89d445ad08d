"""Programs out of Debian's packages, without installing them: downloaded, unpacked into .tools, and run from there.

Nothing of the system is changed and no service is started, so that a developer needs no root. What a package depends
on and the system does not have is unpacked beside it. On a system without apt, or when nothing can be downloaded, a
program of the PATH does as well.
"""

import fcntl
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deploy.checks.failures import CheckFailed

ROOT: Final = Path(__file__).resolve().parents[2]
TOOLS: Final = ROOT / ".tools"
_PROGRAMS: Final = ("usr/bin", "usr/sbin", "bin", "sbin")
_SYSTEM_PATH: Final = (
    *os.get_exec_path(),
    "/usr/local/sbin",
    "/usr/sbin",
    "/sbin",
)  # where a user's PATH ends too early
_DOWNLOAD_TIMEOUT_S: Final = 300


def ensure(package: str, *, binary: str) -> Path:
    """The path of a program that a Debian package has; raises CheckFailed when it cannot be had."""
    tree = _tree()
    whole = tree / ".whole" / package  # else a download that was interrupted would pass for one that is there
    with lock():
        found = _find(tree, binary) if whole.exists() else None
        if found is None:
            problem = _download(package, into=tree)
            found = _find(tree, binary) or _find_in_system(binary)
            if found is None:
                raise CheckFailed(f"{binary} is neither in Debian's package {package} nor on the PATH. {problem}")
            if tree in found.parents and not problem:
                whole.parent.mkdir(exist_ok=True)
                whole.touch()
    return found


def packaged(path: str) -> Path:
    """Where a file of an unpacked package is; `path` is where it would be if that was installed."""
    return _tree() / path.removeprefix("/")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables to run such a program with: it finds the libraries and programs that were unpacked beside it."""
    tree = _tree()
    libraries = [str(path) for path in sorted((tree / "usr/lib").glob("*-linux-gnu*"))]
    return {
        **os.environ,
        "PATH": os.pathsep.join([*(str(tree / folder) for folder in _PROGRAMS), *_SYSTEM_PATH]),
        **({"LD_LIBRARY_PATH": os.pathsep.join(libraries)} if libraries else {}),
        **(extra or {}),
    }


def relocate(program: Path, *, built_in: str, into: Path) -> Path:
    """A copy of a program that looks for the files of its package in the folder that it is run in, which is `into`.

    For a program with the name of a folder built in that only exists where its package is installed. In its place
    stands the present folder, written in as many letters, for a program cannot bear another number of them.
    """
    here = ("./" * len(built_in))[: len(built_in)]
    copy = into / program.name
    copy.write_bytes(program.read_bytes().replace(built_in.encode(), here.encode()))
    copy.chmod(0o755)
    return copy


def _tree() -> Path:
    """Where packages are unpacked: one folder for each release, for a program of another one may miss its libraries."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return TOOLS / "system"
    return TOOLS / f"{release['ID']}-{release.get('VERSION_ID', 'rolling')}"


def _find(tree: Path, binary: str) -> Path | None:
    found = (tree / folder / binary for folder in _PROGRAMS)
    return next((path for path in found if path.is_file()), None)


def _find_in_system(binary: str) -> Path | None:
    found = shutil.which(binary, path=os.pathsep.join(_SYSTEM_PATH))
    return None if found is None else Path(found)


@contextmanager
def lock() -> Iterator[None]:
    """Let one process at a time unpack."""
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(package: str, *, into: Path) -> str:
    """Unpack a package and what the system lacks for it; returns why that was not possible, or ""."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return "This system has no apt."
    apt = TOOLS / "apt"
    for folder in ("lists/partial", "archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    # The system's package lists may be absent or too old; then lists of our own are fetched.
    own_lists = [f"Dir::State::lists={apt / 'lists'}"]
    problem = _fetch(package, apt)
    if problem:
        _apt(["update"], apt, own_lists)  # a source that is away matters only if the package is in it
        problem = _fetch(package, apt, own_lists)
    archives = sorted((apt / "archives").glob("*.deb"))
    for archive in archives:
        subprocess.run(["dpkg-deb", "--extract", archive, into], check=True, timeout=_DOWNLOAD_TIMEOUT_S)  # noqa: S603, S607
        archive.unlink()
    return problem


def _fetch(package: str, apt: Path, options: Sequence[str] = ()) -> str:
    """Download a package with its missing dependencies into apt/archives; returns what apt said when that failed."""
    return _apt(["install", "--download-only", "--no-install-recommends", "--yes", package], apt, options)


def _apt(arguments: Sequence[str], apt: Path, options: Sequence[str] = ()) -> str:
    settings = [
        f"Dir::Cache={apt}",
        f"Dir::Cache::archives={apt / 'archives'}",
        "Debug::NoLocking=1",  # the system's lock is root's, and nothing of the system is written
        "APT::Sandbox::User=",  # root would else become _apt, who may not write here
        "APT::Update::Error-Mode=any",
        "Acquire::Retries=5",
        *options,
    ]
    command = ["apt-get", "--quiet=2", *(part for setting in settings for part in ("-o", setting)), *arguments]
    try:
        completed = subprocess.run(  # noqa: S603  arguments of ours
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"apt-get took longer than {_DOWNLOAD_TIMEOUT_S} s."
    return "" if completed.returncode == 0 else f"apt-get says: {completed.stderr.strip()}"
