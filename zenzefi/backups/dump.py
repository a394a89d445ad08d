"""pg_dump of one exported snapshot, as a stream that ends in an error unless pg_dump said that it is whole."""

from collections.abc import AsyncGenerator
from pathlib import Path

from zenzefi.backups.errors import DumpFailed
from zenzefi.backups.processes import ProgramMissing, child_environment, find_program, major, read_version, running
from zenzefi.settings import Settings

# gzip, because every build of PostgreSQL has it. Level 3 takes half the time of the default 6, for 8 % more bytes.
_COMPRESSION = 3
# pg_dump locks every table against ALTER and DROP first. Rather than wait behind one for hours, fail, and say so.
_LOCK_WAIT_MS = 60_000


async def find_pg_dump(settings: Settings, *, server_version: str) -> tuple[Path, str]:
    """The program and its version.

    Raises:
        ProgramMissing: there is none, or it is older than the server, whose catalogs it would not understand.
    """
    program = find_program(settings, "pg_dump")
    version = await read_version(program)
    if major(version) < major(server_version):
        raise ProgramMissing(
            f"{program} is of version {version}, and the server of {server_version}. Install the client programs of "
            f"PostgreSQL {major(server_version)}, and set POSTGRES_BIN to their folder."
        )
    return program, version


async def dump(settings: Settings, *, program: Path, snapshot: str) -> AsyncGenerator[bytes, None]:
    """The database as the snapshot shows it, in pg_dump's custom format, compressed.

    Raises:
        DumpFailed: pg_dump failed or was ended; the message has its own words.
    """
    arguments: list[str | Path] = [
        program,
        "--format=custom",
        f"--compress={_COMPRESSION}",
        f"--snapshot={snapshot}",
        f"--lock-wait-timeout={_LOCK_WAIT_MS}",
        "--no-password",
    ]
    async with running(arguments, environment=child_environment(settings)) as child:
        while piece := await child.read():
            yield piece
        code = await child.finish()
        if code != 0:
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise DumpFailed(f"pg_dump {how}: {child.complaints or 'it said nothing'}")
