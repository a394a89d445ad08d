"""What the embedded servers have in common: a folder, a port of the loopback address, a log, and one child process."""

from abc import ABC, abstractmethod
from pathlib import Path

from zenzefi.devstack.ports import LOOPBACK, find_free_port, keep_port, require_free_port
from zenzefi.devstack.process import ChildProcess, Command


class EmbeddedServer(ABC):
    """One server on the loopback address, a child of this process; its folder may be used again later."""

    name: str
    start_timeout_s: float
    host = LOOPBACK

    def __init__(self, directory: Path, *, port: int | None, log_file: Path | None) -> None:
        """Take the folder, the port (None: one that is free now), and the log's place if it is not the folder."""
        self.directory = directory.absolute()
        self.log_file = (log_file or directory / "server.log").absolute()
        self.port = find_free_port() if port is None else port
        self._child: ChildProcess | None = None

    @property
    def child(self) -> ChildProcess:
        """The server's process."""
        if self._child is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._child

    @abstractmethod
    def prepare(self) -> None:
        """Make the folder and the secrets, or find them again; `start` does it, too. Raises StateBroken."""

    def start(self) -> None:
        """Start the server and return when it is ready, from the main thread alone (see ChildProcess.start).

        Raises a DevStackError that names the fix.
        """
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """The first half of `start`: returns as soon as the server's process runs."""
        self.prepare()
        require_free_port(self.port, server=self.name, fix="Choose another port.")
        self._child = ChildProcess(self._make_command())
        self._child.start()

    def wait_until_ready(self) -> None:
        """The second half of `start`."""
        self.child.wait_until(self._is_ready, timeout_s=self.start_timeout_s)

    def request_stop(self) -> None:
        """Ask the server to stop, and do not wait for it. Without effect before the start and after the end."""
        if self._child is not None:
            self._child.request_stop()

    def stop(self, *, timeout_s: float = 5.0) -> None:
        """Stop in order, or kill after `timeout_s` seconds. Idempotent."""
        if self._child is not None:
            keep_port(self.port)
            self._child.stop(timeout_s=timeout_s)

    @abstractmethod
    def _make_command(self) -> Command:
        """What to execute; whatever it needs on the disk is made here, too."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether this very server, and not another one on its port, takes requests."""
