"""An embedded Valkey: one folder holds its data, configuration, password, log and lock."""

import socket
from collections.abc import Mapping
from pathlib import Path

from zenzefi.devstack.binaries import find_valkey
from zenzefi.devstack.embedded import EmbeddedServer
from zenzefi.devstack.ports import LOOPBACK
from zenzefi.devstack.process import Command, make_private_directory
from zenzefi.devstack.secretfile import read_or_make_secret, write_private_file

_PROBE_TIMEOUT_S = 0.5


class EmbeddedValkey(EmbeddedServer):
    """One server on the loopback address, with a password. It never evicts: queues and limits are no cache.

    With `append_only` what it holds is found again at the next start, at most one second of it lost by a crash.
    """

    name = "Valkey"
    start_timeout_s = 30.0  # a long append-only file is loaded first; a fresh start takes 0.04 s

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        append_only: bool = True,
        settings: Mapping[str, str] | None = None,
        log_file: Path | None = None,
    ) -> None:
        super().__init__(directory, port=port, log_file=log_file)
        self.password = ""
        self._settings = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "daemonize": "no",
            "maxmemory-policy": "noeviction",
            "save": '""',
            "appendonly": "yes" if append_only else "no",
            "appendfsync": "everysec",
        } | dict(settings or {})

    def prepare(self) -> None:
        """Make the folder and the password, or find them again."""
        make_private_directory(self.directory)
        self.password = read_or_make_secret(self.directory / "password")

    def _make_command(self) -> Command:
        data = self.directory / "data"
        make_private_directory(data)
        configuration = self.directory / "valkey.conf"
        lines = [f"{name} {value}\n" for name, value in self._settings.items()]
        write_private_file(configuration, "".join([*lines, f"requirepass {self.password}\n"]))
        return Command(
            name=self.name,
            arguments=[find_valkey(), configuration],
            log_file=self.log_file,
            environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            working_directory=data,  # where it keeps its files unless told otherwise
            lock_file=self.directory / "lock",
        )

    def _is_ready(self) -> bool:
        """Whether this server (it knows our password) has loaded its data (it would say LOADING)."""
        try:
            with socket.create_connection((self.host, self.port), timeout=_PROBE_TIMEOUT_S) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (received := connection.recv(256)):
                    answer += received
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"
