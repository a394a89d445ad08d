"""An embedded PostgreSQL 18: one folder holds its data, password, log and lock."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGQUIT

from zenzefi.devstack.binaries import choose_user, find_postgres, make_reachable
from zenzefi.devstack.embedded import EmbeddedServer
from zenzefi.devstack.errors import StateBroken
from zenzefi.devstack.ports import LOOPBACK
from zenzefi.devstack.process import ChildProcess, Command, Demotion, make_private_directory
from zenzefi.devstack.secretfile import read_or_make_secret

MAJOR_VERSION = "18"
_INITDB_TIMEOUT_S = 60.0
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
_STATUS_LINE = 7  # of postmaster.pid, counted from 0: LOCK_FILE_LINE_PM_STATUS in PostgreSQL's pidfile.h

_COMMON_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # paths of sockets are limited to 107 bytes, those of folders are not
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
    "max_wal_size": "256MB",
}
# Nothing that a test writes has to survive the machine.
_THROWAWAY_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum_naptime": "5min",
}


class EmbeddedPostgres(EmbeddedServer):
    """One server on the loopback address, with SCRAM passwords; data made at the first start and found again later.

    Not `durable` means faster and for tests: a crash of the machine (not of the server) may lose the data.
    """

    name = "PostgreSQL"
    start_timeout_s = 60.0  # recovery after a crash may take a while; a fresh start takes 0.1 s
    superuser = "postgres"

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        log_file: Path | None = None,
    ) -> None:
        super().__init__(directory, port=port, log_file=log_file)
        self.password = ""
        self._settings = _COMMON_SETTINGS | ({} if durable else _THROWAWAY_SETTINGS) | dict(settings or {})
        self._durable = durable
        self._data = self.directory / "data"

    def dsn(self, database: str = "postgres") -> str:
        """A connection URL of the superuser."""
        return f"postgresql://{self.superuser}:{self.password}@{self.host}:{self.port}/{database}"

    def prepare(self) -> None:
        """Make the folder and the password, or find them again."""
        make_private_directory(self.directory)
        self.password = read_or_make_secret(self.directory / "password")

    def _make_command(self) -> Command:
        data = self._data
        demotion = choose_user(data)
        installation = find_postgres()
        if demotion is not None:
            installation = make_reachable(installation, demotion)
        if data.exists():
            _require_usable(data, demotion)
        else:
            self._make_data(installation, data, demotion)
        arguments: list[str | Path] = [installation / "bin/postgres", "-D", _seen_from(data, demotion)]
        for name, value in (self._settings | {"port": str(self.port)}).items():
            arguments += ["-c", f"{name}={value}"]
        return Command(
            name=self.name,
            arguments=arguments,
            log_file=self.log_file,
            environment=_ENVIRONMENT,
            working_directory=data,
            # "Fast" shutdown: cut the connections, write a checkpoint, end. SIGTERM would wait for the connections.
            stop_signal=SIGINT,
            death_signal=SIGINT,
            kill_signal=SIGQUIT,  # "immediate": its own children end, too; the next start recovers from the log
            demotion=demotion,
            lock_file=self.directory / "lock",
        )

    def _is_ready(self) -> bool:
        """Whether the server says in its pid file that it accepts connections, which is how pg_ctl asks."""
        try:
            lines = (self._data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > _STATUS_LINE and lines[0] == str(self.child.pid) and lines[_STATUS_LINE].strip() == "ready"

    def _make_data(self, installation: Path, data: Path, demotion: Demotion | None) -> None:
        """Run initdb beside the final place, so that one that was interrupted is never taken for a database."""
        partial = data.with_name("data.partial")
        shutil.rmtree(partial, ignore_errors=True)
        make_private_directory(partial)
        with tempfile.TemporaryFile() as password_file:
            password_file.write(self.password.encode())
            password_file.flush()
            if demotion is not None:
                os.chown(partial, demotion.uid, demotion.gid)
                os.fchown(password_file.fileno(), demotion.uid, demotion.gid)
            arguments: list[str | Path] = [
                installation / "bin/initdb",
                f"--pgdata={_seen_from(partial, demotion)}",
                f"--username={self.superuser}",
                f"--pwfile=/proc/self/fd/{password_file.fileno()}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                # The wheel is built without ICU, and the C library's locales differ between machines.
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--no-instructions",
            ]
            initdb = ChildProcess(
                Command(
                    name="initdb",
                    arguments=arguments if self._durable else [*arguments, "--no-sync"],
                    log_file=self.log_file,
                    environment=_ENVIRONMENT,
                    working_directory=partial,
                    # It would finish its step first, and what it made so far is thrown away in any case.
                    stop_signal=SIGKILL,
                    death_signal=SIGKILL,
                    demotion=demotion,
                    lock_file=self.directory / "lock",
                    inherited=(password_file.fileno(),),
                )
            )
            initdb.run(timeout_s=_INITDB_TIMEOUT_S)
        partial.rename(data)


def _seen_from(data: Path, demotion: Demotion | None) -> Path:
    """How the server names its data folder, which is also its working directory.

    A demoted server cannot walk to it when a folder on the way is private, as root's home and the state folder are.
    Its working directory it can enter in any case.
    """
    return data if demotion is None else Path("/proc/self/cwd")


def _require_usable(data: Path, demotion: Demotion | None) -> None:
    """Raise StateBroken unless this server may and can open the data."""
    anew = f"remove {data.parent} to begin anew"
    if demotion is None and data.stat().st_uid != os.geteuid():
        raise StateBroken(f"{data} belongs to another user. Run as that user, or {anew}.")
    try:
        version = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise StateBroken(f"{data} is not a PostgreSQL data folder. Move it away, or {anew}.") from None
    if version != MAJOR_VERSION:
        raise StateBroken(
            f"{data} was made by PostgreSQL {version}, and this is PostgreSQL {MAJOR_VERSION}. "
            f"Dump it with version {version} and restore it here, or {anew}."
        )
