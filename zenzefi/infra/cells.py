"""Numbers that outlive their process: the memory behind the metrics, shared by all web processes of one supervisor.

The memory is an anonymous file that the supervisor makes and its processes inherit, cut into areas. A process writes
only to the area that it holds, with plain stores and no system call, and reads them all. It holds it by a lock on the
file, which the kernel lifts when the process ends in whatever way. The next process takes the area over with what is
written there and counts on from it: so nothing that was counted is ever lost or counted twice, kill -9 included, and
there are never more areas than processes that lived at the same time.

An area is a sequence of 8-byte cells. The first says how many cells are in use; then come entries: the length of the
key in bytes, the number of its values, the key, and the values. An entry counts once the first cell includes it.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from functools import cached_property
from typing import Final

# Some 4,000 counters, several times of what all routes, methods and codes in use come to. Only pages that were written
# to take memory.
AREA_BYTES: Final = 512 * 1024
# Beside each process there may be two that were replaced and still finish their requests (zenzefi.server.supervisor)
# and, for DRAIN_TIMEOUT, one older than those.
_AREAS_PER_PROCESS: Final = 4
_MORE_AREAS: Final = 12
_CELL: Final = 8
# struct flock of 64-bit Linux: type, whence, start, length, pid.
_FLOCK: Final = struct.Struct("hhqqi4x")


class Area:
    """The entries of one process at a time, each a key and some values."""

    def __init__(self, memory: memoryview) -> None:
        """Take memory that is all zero, or was an area before."""
        self._bytes = memory
        self.cells: memoryview[float] = memory.cast("d")

    @cached_property
    def _index(self) -> dict[bytes, int]:
        return {key: start for key, start, _ in self._walk()}

    @classmethod
    def private(cls) -> "Area":
        """An area of this process alone."""
        return cls(memoryview(bytearray(AREA_BYTES)))

    def place(self, key: bytes, count: int) -> int | None:
        """The index of the first of the key's cells, made and zero if it is new; None when the area is full."""
        start = self._index.get(key)
        if start is not None:
            return start
        used = self._used()
        start = used + 2 + _cells_of(len(key))
        if (start + count) * _CELL > len(self._bytes):
            return None
        offset = (used + 2) * _CELL
        self._bytes[offset : offset + len(key)] = key
        self.cells[used], self.cells[used + 1] = float(len(key)), float(count)
        self.cells[0] = float(start + count)
        self._index[key] = start
        return start

    def entries(self) -> Iterator[tuple[bytes, list[float]]]:
        """All keys and their values."""
        for key, start, count in self._walk():
            yield key, list(self.cells[start : start + count])

    def _used(self) -> int:
        return int(self.cells[0]) or 1

    def _walk(self) -> Iterator[tuple[bytes, int, int]]:
        at, used = 1, self._used()
        while at < used:
            size, count = int(self.cells[at]), int(self.cells[at + 1])
            offset = (at + 2) * _CELL
            start = at + 2 + _cells_of(size)
            yield bytes(self._bytes[offset : offset + size]), start, count
            at = start + count


class SharedAreas:
    """The areas of all processes of a supervisor."""

    def __init__(self, descriptor: int) -> None:
        """Take the descriptor of ``make_shared_file``, which is to stay open: closing it would lift the lock."""
        os.set_inheritable(descriptor, False)  # noqa: FBT003  the function's only form
        self._descriptor = descriptor
        self._memory = memoryview(mmap.mmap(descriptor, 0))
        self._held: int | None = None

    def take(self) -> Area:
        """Hold a free area, with what its holders before left in it, until this process ends.

        Raises:
            BlockingIOError: all are held.
        """
        for number in range(len(self._memory) // AREA_BYTES):
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            except (BlockingIOError, PermissionError):
                continue
            self._held = number
            area = self._area(number)
            area.cells[0] = area.cells[0] or 1.0  # it was held, if only for this cell
            return area
        raise BlockingIOError("no area is free")

    def read(self) -> Iterator[tuple[int, bool, Area]]:
        """The areas that were ever held: number, whether its holder lives, and the entries."""
        for number in range(len(self._memory) // AREA_BYTES):
            area = self._area(number)
            if area.cells[0] == 0.0:
                return  # they are taken from the first one up
            yield number, number == self._held or self._is_held_by_other(number), area

    def _area(self, number: int) -> Area:
        return Area(self._memory[number * AREA_BYTES : (number + 1) * AREA_BYTES])

    def _is_held_by_other(self, number: int) -> bool:
        wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        found = fcntl.fcntl(self._descriptor, fcntl.F_GETLK, wanted)
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


def make_shared_file(processes: int) -> int:
    """An anonymous file in memory with areas for so many processes and their successors; its descriptor."""
    descriptor = os.memfd_create("zenzefi-metrics")
    os.ftruncate(descriptor, (processes * _AREAS_PER_PROCESS + _MORE_AREAS) * AREA_BYTES)
    return descriptor


def _cells_of(size_bytes: int) -> int:
    return -(-size_bytes // _CELL)
