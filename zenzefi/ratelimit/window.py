"""What one process admitted to one subject: exact enough to stand in for Redis, and bounded in memory."""

from collections import deque
from typing import Final

# Entries of a subject at most, 130 bytes each: where more may be admitted, those within 1/256 of the window share one.
ENTRIES: Final = 256


class AdmissionLog:
    """Admissions in a sliding window, by the monotonic clock; an entry leaves by its newest one, never earlier."""

    __slots__ = ("_entries", "_merge_s", "_total", "_window_s")

    def __init__(self, window_s: float, *, limit: int) -> None:
        """Take the window's length, and how many it may hold."""
        self._window_s = window_s
        self._merge_s = 0.0 if limit <= ENTRIES else window_s / ENTRIES
        self._entries: deque[list[float]] = deque()  # [time of the newest, how many, time of the oldest]
        self._total = 0

    def add(self, now: float) -> None:
        """Note an admission; ``now`` never falls."""
        last = self._entries[-1] if self._entries else None
        if last is not None and now - last[2] <= self._merge_s:
            last[0] = now
            last[1] += 1
        else:
            self._entries.append([now, 1, now])
        self._total += 1

    def remove(self, at: float) -> None:
        """Take back an admission that was noted at ``at``, as long as the window holds it."""
        for index in range(len(self._entries) - 1, -1, -1):
            entry = self._entries[index]
            if entry[2] <= at:
                if at <= entry[0]:
                    entry[1] -= 1
                    self._total -= 1
                    if not entry[1]:
                        del self._entries[index]
                return

    def count(self, now: float) -> int:
        """How many the window still holds."""
        entries, edge = self._entries, now - self._window_s
        while entries and entries[0][0] <= edge:
            self._total -= int(entries.popleft()[1])
        return self._total

    def wait_s(self, now: float, *, room: int) -> float:
        """Seconds until at most ``room`` admissions are left in the window."""
        excess = self.count(now) - room
        for newest, count, _ in self._entries:
            excess -= int(count)
            if excess <= 0:
                return max(0.0, newest + self._window_s - now)
        return 0.0
