"""This machine, and this process on it."""

import resource
import shutil
import tempfile
from pathlib import Path
from typing import Final

from aiohttp import http_parser

from zenzefi.doctor.findings import Finding, fail, ok, warn

# The gateway may hold two connections for each request under way.
MIN_OPEN_FILES: Final = 4096
# Logs and core dumps take what is left quickly; at so little, programs begin to fail.
_FULL_BYTES: Final = 256 * 2**20
_SCARCE_SHARE: Final = 0.1


def check_parser() -> Finding:
    """Whether HTTP is read by the strict parser."""
    if http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy:
        return ok("http parser", "aiohttp's C parser")
    fix = "Unset AIOHTTP_NO_EXTENSIONS, and install aiohttp from a wheel."
    return fail("http parser", "aiohttp's C parser is not loaded: the slow one in Python serves", fix)


def check_open_files() -> Finding:
    """Whether a process may have enough connections."""
    # The server raises its soft limit by itself, up to the hard one.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MIN_OPEN_FILES:
        return warn("open files", f"{hard} per process", "ulimit -Hn 65536, or LimitNOFILE=65536 in the systemd unit.")
    return ok("open files", "unlimited" if hard == resource.RLIM_INFINITY else f"{hard} per process")


def check_disks() -> list[Finding]:
    """How much room is left where this machine keeps its programs, its logs and its temporary files."""
    folders = {
        Path(folder).stat().st_dev: folder for folder in (tempfile.gettempdir(), "/var/log", "/") if _is_there(folder)
    }
    return [judge_disk(folder, shutil.disk_usage(folder)) for folder in sorted(folders.values())]


def judge_disk(folder: str, usage: tuple[int, int, int]) -> Finding:
    """Judge a file system by what shutil.disk_usage says: all, used and free bytes."""
    total, _, free = usage
    detail = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB are free"
    fix = f"Make room on the file system of {folder}, or a larger one."
    if free < min(_FULL_BYTES, total // 2):
        return fail(f"disk {folder}", detail, fix)
    return warn(f"disk {folder}", detail, fix) if free < total * _SCARCE_SHARE else ok(f"disk {folder}", detail)


def _is_there(folder: str) -> bool:
    return Path(folder).is_dir()
