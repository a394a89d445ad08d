"""Lines for a log's stream, written by a thread: whoever logs never waits for the reader of the stream."""

import atexit
import contextlib
import logging
import select
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Final, TextIO

import structlog

# How long a line waits for others. A process that is killed takes the lines of this time with it.
FLUSH_S: Final = 0.05
# Some 5 MB: several seconds of full load, for which the stream's reader may stand still before lines are dropped.
MAX_WAITING: Final = 16_384
_LAST_FLUSH_S: Final = 1.0

log = structlog.get_logger(__name__)


class LineWriter:
    """Writes lines to the stream of a handler, between the handler's own."""

    def __init__(self, handler: "logging.StreamHandler[TextIO]", *, is_off: bool = False) -> None:
        """Take the handler; ``is_off`` is for those who write lines, to save making them."""
        self.is_off = is_off
        self._handler = handler
        self._waiting: deque[str] = deque()
        self._dropped = 0
        self._asked = threading.Event()
        self._thread: threading.Thread | None = None

    def write(self, line: str) -> None:
        """Have a line of ASCII written; it is dropped, and counted, when too many wait. Never blocks."""
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(line)
        if not self._asked.is_set():
            self._asked.set()
            if self._thread is None:
                # Not before: a process that logs no such line, such as the supervisor, has no thread.
                self._thread = threading.Thread(target=self._write_for_ever, name="log", daemon=True)
                self._thread.start()
                atexit.register(self._flush_at_last)

    def flush(self) -> None:
        """Write what waits, in the caller's thread."""
        handler = self._handler
        with handler.lock or contextlib.nullcontext():
            self._write_out()

    def _write_out(self) -> None:
        waiting = self._waiting
        lines = [waiting.popleft() for _ in range(len(waiting))]
        dropped, self._dropped = self._dropped, 0
        if lines:
            with contextlib.suppress(OSError, ValueError):  # a stream that is gone: there is nobody to tell
                for piece in _pieces(lines):
                    self._handler.stream.write(piece)
                    self._handler.stream.flush()
        if dropped:
            log.error("log_lines_dropped", lines=dropped)

    def _write_for_ever(self) -> None:
        while True:
            self._asked.wait()
            time.sleep(FLUSH_S)
            self._asked.clear()
            self.flush()

    def _flush_at_last(self) -> None:
        lock = self._handler.lock
        if lock is not None and lock.acquire(timeout=_LAST_FLUSH_S):  # else the stream hangs, and the end must not
            self._write_out()
            lock.release()


def _pieces(lines: list[str]) -> Iterator[str]:
    """Whole lines, as many together as a pipe takes in one: other processes write to the same one."""
    piece: list[str] = []
    size = 0
    for line in lines:
        if piece and size + len(line) + 1 > select.PIPE_BUF:
            yield "".join(piece)
            piece, size = [], 0
        piece += (line, "\n")
        size += len(line) + 1
    if piece:
        yield "".join(piece)
