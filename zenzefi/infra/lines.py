"""Lines of a log, worded and written by a thread: whoever logs never waits for the reader of the log.

The thread also words them because it does so many at a time: in between the work on requests, which fills the
processor's caches with other things, each line costs several times as much.
"""

import atexit
import contextlib
import fcntl
import math
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

import structlog

# How long a line waits for others. A process that is killed takes the lines of this time with it.
FLUSH_S: Final = 0.05
# Some 20 MB: several seconds of full load, for which the reader may stand still before lines are dropped.
MAX_WAITING: Final = 16_384
# Words fewer lines in a row than would keep the event loop from Python's lock for a millisecond.
_AT_ONCE: Final = 128
CLOSE_S: Final = 1.0

log = structlog.get_logger(__name__)

Entry = TypeVar("Entry")


class LineWriter(Generic[Entry]):
    """Writes lines to a descriptor, to which nobody else in this process writes."""

    def __init__(self, descriptor: int, *, word: Callable[[Entry], str]) -> None:
        """Take the descriptor, and what makes an entry a line of ASCII."""
        self._descriptor = descriptor
        self._word = word
        self._waiting: deque[Entry] = deque()
        self._dropped = 0
        self._asked = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_until_closed, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, entry: Entry) -> None:
        """Have an entry worded and written; it is dropped, and counted, when too many wait. Never blocks.

        Nothing may change the entry from now on. What comes after ``close`` is written at once.
        """
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(entry)
        if self._closing.is_set() and not self._thread.is_alive():
            self._write_out()
        elif not self._asked.is_set():
            self._asked.set()

    def close(self, *, timeout_s: float = CLOSE_S) -> None:
        """Have all written that waits; where its reader stands still for so long, the process goes without."""
        self._closing.set()
        self._asked.set()
        self._thread.join(timeout_s)

    def _write_until_closed(self) -> None:
        while not self._closing.is_set():
            self._asked.wait()
            self._closing.wait(FLUSH_S)
            self._asked.clear()
            self._write_out()
        while self._waiting or self._dropped:
            self._write_out()

    def _write_out(self) -> None:
        left = len(self._waiting)  # what comes meanwhile waits for others, as these did
        while left > 0:
            lines = self._take(min(left, _AT_ONCE))
            left -= _AT_ONCE
            with contextlib.suppress(OSError):  # whoever read it is gone: there is nobody to tell
                for piece in _pieces(lines, most=_largest_piece(self._descriptor)):
                    _write_all(self._descriptor, piece.encode("ascii", "backslashreplace"))
        dropped, self._dropped = self._dropped, 0
        if dropped:
            log.error("log_lines_dropped", lines=dropped)

    def _take(self, count: int) -> list[str]:
        lines: list[str] = []
        for _ in range(count):
            entry = self._waiting.popleft()
            try:
                lines.append(self._word(entry))
            except Exception:
                log.exception("log_line_not_worded")
        return lines


def _largest_piece(descriptor: int) -> float:
    """How many bytes may be written at once, for other processes write to the same pipe or file.

    A pipe takes only so many in one; a file that is open for appending, any number, and each write costs the event loop
    a turn with Python's lock.
    """
    is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    appends = is_file and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
    return math.inf if appends else select.PIPE_BUF


def _write_all(descriptor: int, data: bytes) -> None:
    # Not by a stream of Python: its lock, which a write that hangs would hold, is asked for when the process ends.
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # somebody who shares the pipe has told it not to wait
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


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
