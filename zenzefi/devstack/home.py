"""ZENZEFI_HOME: the folder that holds everything of one development stack.

    lock          held by the stack that runs here
    state.json    keys and passwords, made once, and the demo token
    ports.json    the ports of the inner servers
    postgres/  valkey/  s3/    each server's data and password
    logs/         what each process wrote
    run/          locks of the zenzefi processes, which tell when those of a killed stack are gone

Folders are 0700 and files 0600. Removing the whole folder begins anew.
"""

import fcntl
import json
import os
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Self

from zenzefi.devstack.errors import StateBroken
from zenzefi.devstack.process import make_private_directory
from zenzefi.devstack.secretfile import write_private_file


def _make_secret() -> str:
    return secrets.token_urlsafe(32)


def _make_password() -> str:
    return secrets.token_urlsafe(15)  # 120 bits, and still short enough to type


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is made at random at the first start and found again later."""

    secret_key: str = field(default_factory=_make_secret, repr=False)
    owner_password: str = field(default_factory=_make_secret, repr=False)
    app_password: str = field(default_factory=_make_secret, repr=False)
    admin_password: str = field(default_factory=_make_password, repr=False)
    demo_password: str = field(default_factory=_make_password, repr=False)
    demo_token: str = field(default="", repr=False)


class Home:
    """One such folder; `open` makes or finds it and takes its lock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.logs = self.directory / "logs"
        self.run = self.directory / "run"
        self.state = State()
        self._lock: int | None = None

    @property
    def ports_file(self) -> Path:
        """Where the inner servers' ports are remembered."""
        return self.directory / "ports.json"

    def open(self) -> Self:
        """Make what is missing, take the lock, read the state. Raises StateBroken with the fix."""
        for directory in (self.directory, self.logs, self.run):
            make_private_directory(directory)
        self._take_lock()
        try:
            # It holds secrets and is often made inside a checkout.
            write_private_file(self.directory / ".gitignore", "*\n")
            self.save(self._read_state())
        except StateBroken:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def save(self, state: State) -> None:
        """Remember this state."""
        write_private_file(self.directory / "state.json", json.dumps(asdict(state), indent=2) + "\n")
        self.state = state

    def _take_lock(self) -> None:
        path = self.directory / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateBroken(f"Cannot open {path}: {error.strerror}. {self._begin_anew()}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", errors="replace").strip()
            os.close(descriptor)
            raise StateBroken(
                f"Another stack runs in {self.directory} (process {holder or 'unknown'}). "
                "Stop it first, or choose another folder with ZENZEFI_HOME."
            ) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor

    def _read_state(self) -> State:
        path = self.directory / "state.json"
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return State()
        except (OSError, ValueError) as error:
            raise StateBroken(f"Cannot read {path}: {error}. {self._begin_anew()}") from error
        names = {each.name for each in fields(State)}
        if not isinstance(known, dict) or not all(isinstance(value, str) for value in known.values()):
            raise StateBroken(f"{path} does not hold this stack's keys. {self._begin_anew()}")
        return State(**{name: value for name, value in known.items() if name in names})

    def _begin_anew(self) -> str:
        return f"Repair it, or remove the folder {self.directory} to begin anew (its data is then gone)."
