"""A web process as the supervisor sees it: started, ready or failed, asked to stop, ended."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from zenzefi.server.process import DEFAULT_SERVICE, READY, RETIRE

_REPORT_LIMIT_BYTES = 64 * 1024


class State(Enum):
    """How far a child has come."""

    STARTING = auto()
    READY = auto()
    LEAVING = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a web process is started."""

    public: socket.socket
    internal: socket.socket
    metrics: int  # the descriptor of what all processes count in; see zenzefi.infra.cells
    environ: Mapping[str, str]
    service: str = DEFAULT_SERVICE

    def start(self, slot: int) -> "Child":
        """Start a process. A new program and not a fork: it runs the code as it is on the disk now.

        Call it from the main thread: the process dies with the thread that started it.
        """
        report, theirs = os.pipe()
        os.set_blocking(report, False)
        descriptors = (self.public.fileno(), self.internal.fileno(), self.metrics, theirs)
        names = ("--public-fd", "--internal-fd", "--metrics-fd", "--report-fd")
        options = [text for pair in zip(names, map(str, descriptors), strict=True) for text in pair]
        options += ["--parent", str(os.getpid()), "--service", self.service]
        try:
            process = subprocess.Popen(  # noqa: S603  nothing in it comes from outside
                [sys.executable, "-m", "zenzefi.server.process", *options],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                env=dict(self.environ),
                process_group=0,  # out of reach of Ctrl-C: the supervisor drains first
            )
        except OSError:
            os.close(report)
            raise
        finally:
            os.close(theirs)
        return Child(slot, process, report)


class Child:
    """One process that was started."""

    def __init__(self, slot: int, process: "subprocess.Popen[bytes]", report: int) -> None:
        self.slot = slot
        self.state = State.STARTING
        self.started_at = time.monotonic()
        self.deadline = float("inf")  # when it is killed; monotonic
        self.was_killed = False
        self.report: int | None = report  # the descriptor on which it tells how its start went
        self._process = process
        self._told = b""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Whether it is gone; never blocks."""
        return self._process.poll() is not None

    def read_report(self) -> bool:
        """Take what it told; True once it said that it is ready."""
        while self.report is not None:
            try:
                piece = os.read(self.report, 65536)
            except BlockingIOError:
                break
            self._told = (self._told + piece)[-_REPORT_LIMIT_BYTES:]
            if not piece:
                self.close_report()
        return self._told == READY

    def has_reported(self) -> bool:
        """Whether nothing more will be told."""
        return self.report is None

    def close_report(self) -> None:
        """Listen to it no more."""
        if self.report is not None:
            os.close(self.report)
            self.report = None

    def ask_to_leave(self, *, deadline: float, is_urgent: bool) -> None:
        """Have it drain and exit; it is killed at `deadline` otherwise. May be asked again, more urgently."""
        self.deadline = min(self.deadline, deadline) if self.state is State.LEAVING else deadline
        self.state = State.LEAVING
        self._signal(signal.SIGTERM if is_urgent else RETIRE)

    def kill(self) -> None:
        """End it at once."""
        self.was_killed, self.deadline = True, float("inf")
        self._signal(signal.SIGKILL)

    def ended_well(self) -> bool:
        """Whether it drained, or was told to stop before it had begun."""
        return self._process.returncode in (0, -signal.SIGTERM)

    def obituary(self) -> str:
        """Why it ended: in its own words where it left some."""
        if self.was_killed and self.state is State.STARTING:
            return f"It was not ready after {time.monotonic() - self.started_at:.0f} s."
        told = self._told.removeprefix(READY).decode(errors="replace").strip()
        if told:
            return told
        code = self._process.returncode
        if code is not None and code < 0:
            return f"It was ended by {signal.Signals(-code).name}."
        return f"It ended with exit code {code}."

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
