"""PostgreSQL's own programs as children: where they are, what they are told, and that none is left behind."""

import asyncio
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from zenzefi.backups.errors import BackupError
from zenzefi.settings import Settings

PIECE = 256 * 1024  # of reads; larger ones are not faster
_STDERR_KEPT = 4096  # the end of what the child complained of
_VERSION = re.compile(r"\b(\d+)(?:\.\d+)*")
# libpq's own variables (certificates, SSL mode) and what any program needs; none of our secrets.
_INHERITED = re.compile(r"PG\w+|PATH|HOME|TMPDIR|LD_LIBRARY_PATH|TZDIR")


class ProgramMissing(BackupError):
    """A program of PostgreSQL is missing or too old"""

    code = "backup_program_missing"


class Child:
    """A running program, whose output is ours to read."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._complaints = bytearray()
        self._listening = asyncio.ensure_future(self._listen())

    @property
    def pid(self) -> int:
        """The process id, and that of its process group."""
        return self._process.pid

    @property
    def complaints(self) -> str:
        """The end of what it wrote to standard error."""
        return self._complaints.decode(errors="replace").strip()

    async def read(self) -> bytes:
        """The next piece of its output; empty at the end."""
        assert self._process.stdout is not None
        return await self._process.stdout.read(PIECE)

    async def write(self, piece: bytes) -> None:
        """Hand it input; raises ConnectionError when it does not read any more."""
        assert self._process.stdin is not None
        self._process.stdin.write(piece)
        await self._process.stdin.drain()

    async def finish(self) -> int:
        """Close its input, drop what is left of its output, and return its exit code."""
        if self._process.stdin is not None:
            with suppress(ConnectionError):
                self._process.stdin.close()
                await self._process.stdin.wait_closed()
        while await self.read():
            pass
        await self._listening
        return await self._process.wait()

    async def kill(self) -> None:
        """End it and everything it started. Idempotent."""
        assert self._process.stdout is not None
        # An output that is still open has somebody at its other end, even when the program itself is gone.
        if self._process.returncode is None or not self._process.stdout.at_eof():
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        # asyncio's wait() would wait for ever for a pipe that nobody reads to its end.
        await self.finish()

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        while piece := await self._process.stderr.read(_STDERR_KEPT):
            self._complaints += piece
            del self._complaints[:-_STDERR_KEPT]


@asynccontextmanager
async def running(
    arguments: Sequence[str | Path], *, environment: Mapping[str, str], with_input: bool = False
) -> AsyncIterator[Child]:
    """Run a program in a process group of its own; at the end of the block it and its children are gone."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.PIPE if with_input else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environment),
        start_new_session=True,
        limit=PIECE,
    )
    child = Child(process)
    try:
        yield child
    finally:
        # Shielded: who is cancelled a second time must not leave it running.
        await asyncio.shield(child.kill())


def find_program(settings: Settings, name: str) -> Path:
    """Where a program of PostgreSQL is: in POSTGRES_BIN, or on the PATH.

    Raises:
        ProgramMissing: it is not there.
    """
    found = shutil.which(name, path=settings.backup.postgres_bin or None)
    if found is None:
        raise ProgramMissing(
            f"{name} was not found {f'in {folder}' if (folder := settings.backup.postgres_bin) else 'on the PATH'}. "
            "Install PostgreSQL's client programs (Debian: postgresql-client), or set POSTGRES_BIN to their folder."
        )
    return Path(found)


async def read_version(program: Path) -> str:
    """A program's version, such as 18.6.

    Raises:
        ProgramMissing: it does not tell.
    """
    async with running([program, "--version"], environment=_inherited()) as child:
        output = (await child.read()).decode(errors="replace")
        await child.finish()
    match = _VERSION.search(output)
    if match is None:
        raise ProgramMissing(f"{program} does not tell its version: {output or child.complaints!r}.")
    return match.group()


def major(version: str) -> int:
    """The major version, such as 18."""
    return int(version.partition(".")[0])


def child_environment(settings: Settings, *, database: str | None = None) -> dict[str, str]:
    """How the programs reach the database: everybody may read a process's arguments, its owner alone these."""
    return {
        **_inherited(),
        "LC_ALL": "C.UTF-8",
        "PGHOST": settings.postgres_direct_server,
        "PGPORT": str(settings.postgres_direct_port),
        "PGUSER": settings.backup.postgres_user,
        "PGPASSWORD": settings.backup.postgres_password,
        "PGDATABASE": database or settings.postgres_db,
        "PGAPPNAME": "zenzefi backup",
        "PGCONNECT_TIMEOUT": "10",
        # Keeps the limits of the login from cutting off what takes hours.
        "PGOPTIONS": "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0 -c tcp_keepalives_idle=60",
    }


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
