"""Runs N web processes on one pair of listening sockets: starts, restarts, replaces and stops them.

SIGHUP is a rolling restart: one process after the other gets a successor, and is asked to leave only once that one
serves. The sockets stay open here all the time, so a connection always finds somebody. SIGTERM and SIGINT drain
everything; a second one ends it at once. kill -9 takes the processes along (see process.die_with).

There is no event loop and no thread: signals arrive as bytes in a socket (signal.set_wakeup_fd), beside the reports of
the processes, and all decisions are taken in one place, one after the other.
"""

import contextlib
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import structlog

from zenzefi.infra.cells import make_shared_file
from zenzefi.infra.logging import configure_logging
from zenzefi.server.child import Child, Recipe, State
from zenzefi.server.errors import ServerError
from zenzefi.server.listening import OwnListener, listen, url_of
from zenzefi.server.systemd import VARIABLES as SYSTEMD_VARIABLES
from zenzefi.server.systemd import Notifier, take_listener
from zenzefi.settings import Settings

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_START_TIMEOUT_S = 60.0
_KILL_MARGIN_S = 5.0  # past the drain's own limit: then the process hangs
# Beside each process: every one takes its memory, and an area of the metrics (zenzefi.infra.cells has room for three).
_MAX_RETIRED = 2
_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 15.0
_PROVEN_AFTER_S = 5.0  # a process that served as long did not crash because it started
_MAX_FAILED_STARTS = 8  # in a row in every slot: half a minute of trying

log = structlog.get_logger(__name__)


def serve(
    settings: Settings, processes: int, *, environ: Mapping[str, str] | None = None, service: str | None = None
) -> int:
    """Serve until a signal ends it; returns the exit code: 0 drained, 1 failed. Call it from the main thread.

    The processes read their settings from `environ` (this process's own by default) anew.
    """
    configure_logging(settings.log_level)
    with contextlib.ExitStack() as stack:
        try:
            public = stack.enter_context(
                take_listener(os.environ, "public") or listen(settings.host, settings.port, variables=("HOST", "PORT"))
            )
            internal = stack.enter_context(
                take_listener(os.environ, "internal")
                or listen(settings.internal_host, settings.internal_port, variables=("INTERNAL_HOST", "INTERNAL_PORT"))
            )
        except ServerError as error:
            log.error("start_failed", reason=str(error))  # noqa: TRY400  the message says all; a traceback hides it
            return 1
        environ = os.environ if environ is None else environ
        environ = {name: value for name, value in environ.items() if name not in SYSTEMD_VARIABLES}
        metrics = make_shared_file(processes)
        stack.callback(os.close, metrics)
        recipe = Recipe(public=public, internal=internal, metrics=metrics, environ=environ)
        if service is not None:
            recipe = replace(recipe, service=service)
        patience = Patience(drain_s=settings.drain_timeout_s, retire_s=settings.retire_timeout_s)
        return Supervisor(recipe, processes, patience, Notifier(os.environ)).run()


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a process may take to leave; seconds."""

    drain_s: float  # when it is asked to stop
    retire_s: float  # when a successor has taken over


@dataclass(slots=True)
class _Slot:
    """The place of one process."""

    number: int
    child: Child | None = None
    successor: Child | None = None
    crashes: int = 0  # in quick succession: the backoff grows with them
    failed_starts: int = 0  # since a process here was last ready
    retry_at: float = float("inf")
    last_reason: str = ""


class Supervisor:
    """The processes and what is to become of them."""

    def __init__(self, recipe: Recipe, processes: int, patience: Patience, notifier: Notifier) -> None:
        self._recipe = recipe
        self._slots = [_Slot(number) for number in range(processes)]
        self._leaving: list[Child] = []
        self._patience = patience
        self._notifier = notifier
        self._selector = selectors.DefaultSelector()
        self._rolling: deque[_Slot] = deque()
        self._roll_again = False
        self._is_up = False  # every process has been ready once
        self._is_stopping = False
        self._exit_code = 0

    def run(self) -> int:
        """Start the processes and keep them until a signal ends it; returns the exit code."""
        with _signals_as_bytes() as signals:
            self._selector.register(signals, selectors.EVENT_READ)
            for slot in self._slots:
                slot.child = self._start(slot)
            while self._children():
                for key, _ in self._selector.select(self._next_timeout_s()):
                    if key.fileobj is signals:
                        for number in signals.recv(4096):
                            self._on_signal(number)
                self._look_at_children()
                self._act_on_time()
        self._selector.close()
        return self._exit_code

    def _children(self) -> bool:
        waits = any(slot.child or slot.successor or slot.retry_at < float("inf") for slot in self._slots)
        return waits or bool(self._leaving)

    def _all_children(self) -> list[Child]:
        in_slots = [child for slot in self._slots for child in (slot.child, slot.successor) if child is not None]
        return [*in_slots, *self._leaving]

    def _start(self, slot: _Slot) -> Child:
        slot.retry_at = float("inf")
        child = self._recipe.start(slot.number)
        child.deadline = child.started_at + _START_TIMEOUT_S
        assert child.report is not None
        self._selector.register(child.report, selectors.EVENT_READ)
        return child

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self._is_stopping:
                log.warning("stopped_at_once", reason="a second signal")
                self._exit_code = 1
                for child in self._all_children():
                    child.kill()
            else:
                log.info("stopping", signal=signal.Signals(number).name)
                self._stop()
        elif number == signal.SIGHUP and not self._is_stopping:
            self._roll_again = True
            self._roll()

    def _stop(self) -> None:
        self._is_stopping = True
        if isinstance(self._recipe.public, OwnListener):
            self._recipe.public.refuse()
        self._notifier.tell_stopping()
        for child in self._all_children():
            self._let_go(child, is_urgent=True)
        for slot in self._slots:
            slot.child = slot.successor = None
            slot.retry_at = float("inf")

    def _let_go(self, child: Child, *, is_urgent: bool) -> None:
        limit_s = self._patience.drain_s if is_urgent else self._patience.retire_s
        child.ask_to_leave(deadline=time.monotonic() + limit_s + _KILL_MARGIN_S, is_urgent=is_urgent)
        if child not in self._leaving:
            self._leaving.append(child)
        if not is_urgent:
            retired = [other for other in self._leaving if other.slot == child.slot]
            for other in retired[:-_MAX_RETIRED]:  # the oldest
                self._let_go(other, is_urgent=True)

    def _look_at_children(self) -> None:
        for child in self._all_children():
            if child.report is not None:
                descriptor = child.report
                is_ready = child.read_report()
                if is_ready or child.has_reported():
                    self._selector.unregister(descriptor)
                    child.close_report()
                if is_ready and child.state is State.STARTING:
                    self._on_ready(child)
            if child.has_ended():
                self._on_end(child)

    def _on_ready(self, child: Child) -> None:
        child.state, child.deadline = State.READY, float("inf")
        slot = self._slots[child.slot]
        slot.last_reason, slot.failed_starts = "", 0
        log.info("process_ready", slot=slot.number, process_id=child.pid)
        if slot.successor is child:
            old, slot.child, slot.successor = slot.child, child, None
            if old is not None:
                self._let_go(old, is_urgent=False)
            if not self._rolling:
                log.info("rolling_restart_done")
                self._notifier.tell_ready()
        if not self._is_up and all(slot.child and slot.child.state is State.READY for slot in self._slots):
            self._is_up = True
            self._notifier.tell_ready()
            log.info(
                "serving",
                url=url_of(self._recipe.public),
                internal_url=url_of(self._recipe.internal),
                processes=len(self._slots),
            )
        self._roll()

    def _on_end(self, child: Child) -> None:
        if child.report is not None:
            self._selector.unregister(child.report)
            child.close_report()
        slot = self._slots[child.slot]
        if child in self._leaving:
            self._leaving.remove(child)
            if child.was_killed or not child.ended_well():
                self._exit_code = 1 if self._is_stopping else self._exit_code
                log.warning("process_left_badly", slot=slot.number, process_id=child.pid, reason=child.obituary())
        elif slot.successor is child:
            slot.successor = None
            self._rolling.clear()
            self._roll_again = False
            log.error("rolling_restart_stopped", reason=child.obituary(), consequence="the old processes keep serving")
            self._notifier.tell_ready()
            if slot.child is None:
                self._retry(slot)
        else:
            slot.child = None
            self._on_loss(slot, child)

    def _on_loss(self, slot: _Slot, child: Child) -> None:
        reason = child.obituary()
        # Nobody serves yet, so the reason is one for all, such as a bad setting. Once somebody does, it may pass.
        if child.state is State.STARTING and not self._is_up and not self._is_serving():
            self._give_up(reason)
            return
        if child.state is State.STARTING:
            slot.failed_starts += 1
        elif time.monotonic() - child.started_at >= _PROVEN_AFTER_S:
            slot.crashes = 0
        if reason != slot.last_reason:  # a process that cannot start says why once, not at every attempt
            slot.last_reason = reason
            log.error("process_died", slot=slot.number, process_id=child.pid, reason=reason)
        if all(other.failed_starts >= _MAX_FAILED_STARTS for other in self._slots):
            self._give_up(reason)
        elif slot.successor is None:
            self._retry(slot)

    def _is_serving(self) -> bool:
        return any(slot.child is not None and slot.child.state is State.READY for slot in self._slots)

    def _retry(self, slot: _Slot) -> None:
        slot.retry_at = time.monotonic() + min(_FIRST_BACKOFF_S * 2**slot.crashes, _MAX_BACKOFF_S)
        slot.crashes += 1

    def _give_up(self, reason: str) -> None:
        if not self._is_stopping:
            log.error("start_failed", reason=reason)
        self._exit_code = 1
        self._stop()

    def _roll(self) -> None:
        """Take the next step of a rolling restart, if one is due."""
        if not self._is_up or self._is_stopping or any(slot.successor for slot in self._slots):
            return
        if not self._rolling and self._roll_again:
            self._roll_again = False
            self._rolling.extend(self._slots)
            log.info("rolling_restart")
            self._notifier.tell_reloading()
        if self._rolling:
            slot = self._rolling.popleft()
            slot.successor = self._start(slot)

    def _act_on_time(self) -> None:
        now = time.monotonic()
        self._notifier.keep_alive(now)
        for child in self._all_children():
            if child.deadline <= now:
                child.kill()
        for slot in self._slots:
            if slot.retry_at <= now and not self._is_stopping:
                slot.child = self._start(slot)

    def _next_timeout_s(self) -> float | None:
        times = [child.deadline for child in self._all_children()] + [slot.retry_at for slot in self._slots]
        earliest = min(*times, self._notifier.due_at)
        return None if earliest == float("inf") else max(earliest - time.monotonic(), 0.0)


@contextlib.contextmanager
def _signals_as_bytes() -> Iterator[socket.socket]:
    """A socket that carries the number of each signal that arrives, however many come at once and whenever they do."""
    reader, writer = socket.socketpair()
    reader.settimeout(0)
    writer.settimeout(0)
    wakeup_before = signal.set_wakeup_fd(writer.fileno())
    handlers_before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    try:
        yield reader
    finally:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        reader.close()
        writer.close()
