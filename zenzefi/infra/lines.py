"""Lines for a log's stream, worded and written by a thread: whoever logs never waits for the reader of the stream.

The thread also words them because it does so many at a time: in between the work on requests, which fills the
processor's caches with other things, each line costs several times as much.
"""

import atexit
import contextlib
import fcntl
import logging
import math
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TextIO, TypeVar

import structlog

# How long a line waits for others. A process that is killed takes the lines of this time with it.
FLUSH_S: Final = 0.05
# Some 20 MB: several seconds of full load, for which the stream's reader may stand still before lines are dropped.
MAX_WAITING: Final = 16_384
# Words fewer lines in a row than would keep the event loop from Python's lock for a millisecond.
_AT_ONCE: Final = 128
# After which the lock is let go of for a moment, so that who logs by the handler itself waits for these lines at most.
_PAUSE_S: Final = 0.001
_LAST_FLUSH_S: Final = 1.0

log = structlog.get_logger(__name__)

Entry = TypeVar("Entry")


class LineWriter(Generic[Entry]):
    """Writes lines to the stream of a handler, between the handler's own."""

    def __init__(
        self, handler: "logging.StreamHandler[TextIO]", *, word: Callable[[Entry], str], is_off: bool = False
    ) -> None:
        """Take the handler, and what makes an entry a line of ASCII; ``is_off`` is for those who write entries."""
        self.is_off = is_off
        self._handler = handler
        self._word = word
        self._waiting: deque[Entry] = deque()
        self._dropped = 0
        self._asked = threading.Event()
        self._thread: threading.Thread | None = None

    def write(self, entry: Entry) -> None:
        """Have an entry worded and written; it is dropped, and counted, when too many wait. Never blocks.

        Nothing may change the entry from now on.
        """
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(entry)
        if not self._asked.is_set():
            self._asked.set()
            if self._thread is None:
                # Not before: a process that logs no such line, such as the supervisor, has no thread.
                self._thread = threading.Thread(target=self._write_for_ever, name="log", daemon=True)
                self._thread.start()
                atexit.register(self._flush_at_last)

    def flush(self) -> None:
        """Write what waits, in the caller's thread."""
        lock = self._handler.lock or contextlib.nullcontext()
        dropped, self._dropped = self._dropped, 0
        left = len(self._waiting)
        while True:
            with lock:
                self._write_out(min(left, _AT_ONCE))
            left -= _AT_ONCE
            if left <= 0:
                break
            time.sleep(_PAUSE_S)
        if dropped:
            log.error("log_lines_dropped", lines=dropped)

    def _write_out(self, count: int) -> None:
        lines = self._take(min(count, len(self._waiting)))  # another thread may have written some meanwhile
        with contextlib.suppress(OSError, ValueError):  # a stream that is gone: there is nobody to tell
            stream = self._handler.stream
            for piece in _pieces(lines, most=_largest_piece(stream)):
                stream.write(piece)
                stream.flush()

    def _take(self, count: int) -> list[str]:
        lines: list[str] = []
        for _ in range(count):
            entry = self._waiting.popleft()
            try:
                lines.append(self._word(entry))
            except Exception:
                log.exception("log_line_not_worded")
        return lines

    def _write_for_ever(self) -> None:
        while True:
            self._asked.wait()
            time.sleep(FLUSH_S)
            self._asked.clear()
            self.flush()

    def _flush_at_last(self) -> None:
        lock = self._handler.lock
        if lock is not None and lock.acquire(timeout=_LAST_FLUSH_S):  # else the stream hangs, and the end must not
            self.flush()
            lock.release()


def _largest_piece(stream: TextIO) -> float:
    """How many bytes may be written at once, for other processes write to the same stream.

    A pipe takes only so many in one; a file that is open for appending, any number, and each write costs the event loop
    a turn with Python's lock.
    """
    try:
        descriptor = stream.fileno()
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        appends = is_file and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
    except (OSError, ValueError):  # it is none of the system's streams, or is gone
        appends = False
    return math.inf if appends else select.PIPE_BUF


def _pieces(lines: list[str], *, most: float) -> Iterator[str]:
    """Whole lines, as many together as a piece may have bytes."""
    piece: list[str] = []
    size = 0
    for line in lines:
        if piece and size + len(line) + 1 > most:
            yield "".join(piece)
            piece, size = [], 0
        piece += (line, "\n")
        size += len(line) + 1
    if piece:
        yield "".join(piece)
