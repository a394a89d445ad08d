"""What systemd and a service say to each other: sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3)."""

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

# They are meant for this process; its children would speak in its name.
VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_FIRST_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START
_SEND_TIMEOUT_S: Final = 1.0


class Notifier:
    """Tells systemd how the service stands; whoever was not started by systemd is told nothing, and never fails."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A name in the abstract namespace is written with an @ in place of its first byte.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        watchdog_us = 0 if _is_for_another(environ, "WATCHDOG_PID") else int(environ.get("WATCHDOG_USEC") or 0)
        # Twice in each period that systemd waits, as sd_watchdog_enabled(3) has it.
        self._period_s = watchdog_us / 2_000_000 if self._address and watchdog_us else float("inf")
        self.due_at = time.monotonic() + self._period_s
        """When `keep_alive` is to be called at the latest; monotonic."""

    def tell_ready(self) -> None:
        """The service serves, for the first time or with its new processes."""
        self._tell("READY=1")

    def tell_reloading(self) -> None:
        """The processes are being replaced."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def tell_stopping(self) -> None:
        """The service drains, and ends."""
        self._tell("STOPPING=1")

    def keep_alive(self, now: float) -> None:
        """Tell that decisions are still taken, if it is time to."""
        if now >= self.due_at:
            self.due_at = now + self._period_s
            self._tell("WATCHDOG=1")

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        # systemd that is gone, or too busy to listen, is no reason not to serve.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_SEND_TIMEOUT_S)
            sender.sendto(state.encode(), self._address)


def take_listener(environ: Mapping[str, str], name: str) -> socket.socket | None:
    """The listening socket that systemd keeps for us under this name (FileDescriptorName=), if it keeps one.

    It stays open there while the service is restarted, so that clients wait and are not refused.
    """
    if "LISTEN_PID" not in environ or _is_for_another(environ, "LISTEN_PID"):
        return None
    names = environ.get("LISTEN_FDNAMES", "").split(":")[: int(environ.get("LISTEN_FDS") or 0)]
    if name not in names:
        return None
    descriptor = _FIRST_DESCRIPTOR + names.index(name)
    listener = socket.socket(fileno=descriptor)
    listener.set_inheritable(inheritable=False)  # the processes are given theirs by number
    listener.settimeout(0)
    return listener


def _is_for_another(environ: Mapping[str, str], variable: str) -> bool:
    return environ.get(variable, str(os.getpid())) != str(os.getpid())
