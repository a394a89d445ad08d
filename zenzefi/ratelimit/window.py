"""What one process admitted to one subject: exact enough to stand in for Redis, and bounded in memory."""

from collections import deque

RESOLUTION = 256  # admissions closer together than 1/256 of the window share an entry: 10 KB a subject at most


class AdmissionLog:
    """Admissions in a sliding window, by the monotonic clock; an entry leaves by its newest one, never earlier."""

    __slots__ = ("_entries", "_total", "_window_s")

    def __init__(self, window_s: float) -> None:
        """Take the window's length."""
        self._window_s = window_s
        self._entries: deque[list[float]] = deque()  # [time of the newest, how many, time of the oldest]
        self._total = 0

    def add(self, now: float, count: int = 1) -> None:
        """Note admissions; ``now`` never falls."""
        last = self._entries[-1] if self._entries else None
        if last is not None and now - last[2] < self._window_s / RESOLUTION:
            last[0] = now
            last[1] += count
        else:
            self._entries.append([now, count, now])
        self._total += count

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
