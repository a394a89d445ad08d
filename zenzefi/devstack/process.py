"""A child process in the foreground: it lives no longer than its parent, and stops in bounded time."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from zenzefi.devstack.errors import DevStackError, ServerDied, StateBroken

_LAUNCHER = Path(__file__).with_name("launch.py")
_POLL_S = 0.01  # servers are up within tens of milliseconds; a coarser poll would dominate
_LOG_LIMIT_BYTES = 16 * 1024 * 1024  # one old generation is kept, so a log costs twice this at most
_KILL_WAIT_S = 0.3  # for a kill_signal that is not SIGKILL, which then follows
_PREDECESSOR_WAIT_S = 10.0  # a server whose stack was killed needs this long at most to shut down


@dataclass(frozen=True, slots=True, kw_only=True)
class Demotion:
    """The unprivileged user that a child of root runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to execute, and how it ends.

    `death_signal` is what the kernel sends it when its parent is gone, however that ended; `stop_signal` asks it to
    stop in order, and `kill_signal` ends it when it did not.
    """

    name: str
    arguments: Sequence[str | Path]
    log_file: Path
    environment: Mapping[str, str]
    working_directory: Path
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGTERM
    kill_signal: signal.Signals = signal.SIGKILL
    demotion: Demotion | None = None
    lock_file: Path | None = None
    inherited: tuple[int, ...] = ()  # descriptors that stay open in the child
    standard_input: bytes | None = None  # at most what a pipe holds (64 KiB)


class ChildProcess:
    """One running child. Its output goes to the command's log file."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def name(self) -> str:
        """What a person calls this child."""
        return self.command.name

    @property
    def pid(self) -> int:
        """The process id; the child leads the process group of the same number."""
        return self._running().pid

    @property
    def returncode(self) -> int | None:
        """None while the child runs or before it started; as in subprocess afterwards."""
        if self._process is None:
            return None
        if self._process.returncode is not None:
            return self._process.returncode
        # WNOWAIT leaves the zombie: while it is there, its process group cannot become somebody else's.
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def start(self) -> None:
        """Start the child. Must be called from the main thread.

        The kernel ties the child to the *thread* that made it (PR_SET_PDEATHSIG in prctl(2)): from a thread that ends
        earlier than the process, the child would be stopped with that thread. Raises StateBroken when an earlier run's
        process still holds the lock file.
        """
        if sys.platform != "linux":
            raise DevStackError(
                "The embedded stack runs on Linux only. Point POSTGRES_SERVER and REDIS_HOST at servers."
            )
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a child must be started from the main thread, or it would die with its thread")
        command = self.command
        user = f"{command.demotion.uid}:{command.demotion.gid}" if command.demotion else "-"
        launcher = [sys.executable, "-I", "-S", _LAUNCHER, os.getpid(), int(command.death_signal), user]
        lock = None if command.lock_file is None else _lock(command.lock_file, owner=command.name)
        try:
            with _append(command.log_file) as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(  # noqa: S603  programs of our wheels and our own
                    [str(part) for part in [*launcher, *command.arguments]],
                    stdin=subprocess.DEVNULL if command.standard_input is None else subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    cwd=command.working_directory,
                    env=dict(command.environment),
                    start_new_session=True,  # Ctrl-C must reach the parent alone: it stops children in their order
                    pass_fds=command.inherited if lock is None else (*command.inherited, lock),
                )
            if self._process.stdin is not None:
                with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                    pipe.write(command.standard_input or b"")
        finally:
            if lock is not None:
                os.close(lock)  # from here on the child's copy holds it, until its last process is gone

    def run(self, *, timeout_s: float) -> None:
        """Start the child and return when it has ended well; raises ServerDied when it failed or took too long."""
        self.start()
        try:
            if not self._ends_within(timeout_s):
                raise ServerDied(f"{self.name} did not end within {timeout_s:g} s. {self._last_lines()}")
            if self.returncode != 0:
                raise ServerDied(self.obituary())
        finally:
            self.stop(timeout_s=0.5)  # also when a signal of ours ended the wait

    def wait_until(self, is_ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Return once `is_ready()`; raises ServerDied when the child ends first or `timeout_s` seconds pass."""
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if self.returncode is not None:
                self.stop()
                raise ServerDied(self.obituary())
            if time.monotonic() > deadline:
                self.stop(timeout_s=1.0)
                raise ServerDied(f"{self.name} was not ready within {timeout_s:g} s. {self._last_lines()}")
            time.sleep(_POLL_S)

    def request_stop(self) -> None:
        """Ask the child to stop, and do not wait for it."""
        if self._process is not None and self.returncode is None:
            os.kill(self._process.pid, self.command.stop_signal)

    def stop(self, *, timeout_s: float = 5.0) -> None:
        """Ask the child to stop, wait for `timeout_s` seconds, then kill its process group. Idempotent."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.request_stop()
        if not self._ends_within(timeout_s):
            os.kill(process.pid, self.command.kill_signal)
            self._ends_within(_KILL_WAIT_S)
        # What the child itself started goes with it, also when it died without a word.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _ends_within(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.returncode is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def obituary(self) -> str:
        """Say in one paragraph how the child ended, with the last lines of its log."""
        code = self.returncode
        if code is None:
            how = "is running"
        elif code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}"
        return f"{self.name} {how}. {self._last_lines()}"

    def log_text(self, *, limit_bytes: int = 64 * 1024) -> str:
        """What the child wrote since this start, at most the last `limit_bytes` bytes of it."""
        try:
            with self.command.log_file.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, end - limit_bytes))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def _last_lines(self, count: int = 12) -> str:
        lines = self.log_text().strip().splitlines()[-count:]
        if not lines:
            return f"Its log {self.command.log_file} is empty."
        return f"The end of {self.command.log_file}:\n" + "\n".join(f"  {line}" for line in lines)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._process


@contextlib.contextmanager
def _append(path: Path) -> Iterator[BinaryIO]:
    """Open a log for appending, readable by its owner alone; a long one makes room first."""
    if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
        path.rename(path.with_name(f"{path.name}.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "ab") as log:
        yield log


def _lock(path: Path, *, owner: str) -> int:
    """Take the lock of a server's folder and return its descriptor.

    The server inherits the descriptor, so the lock is free only when its last process is gone: after a kill -9 of the
    stack its servers take a moment to shut down, and a successor on the same data must wait for that.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _PREDECESSOR_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise StateBroken(
                    f"{owner} of an earlier run still uses {path.parent}. Stop it, then try again."
                ) from None
            time.sleep(_POLL_S)


def wait_for_predecessor(lock_file: Path, *, owner: str) -> None:
    """Return when no process of an earlier run holds this lock; raises StateBroken when one stays for 10 s."""
    if lock_file.exists():
        os.close(_lock(lock_file, owner=owner))


def make_private_directory(path: Path) -> None:
    """Make a directory that only its owner can enter; raises StateBroken when that cannot be."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateBroken(
            f"Cannot make the folder {path}: {error.strerror}. Choose another with ZENZEFI_HOME."
        ) from error
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise StateBroken(
            f"The folder {path} is not writable. Make it yours (chown), or choose another with ZENZEFI_HOME."
        )
