"""A timer for silence, made for being told about life often: a sign of life costs one attribute."""

import asyncio
from collections.abc import Callable


class Watchdog:
    """Calls back once nothing has happened for a while.

    A sign of life is only noted; the timer looks at it when it fires, and then sleeps for the rest.
    """

    __slots__ = ("_handle", "_last_sign", "_loop", "_on_silence", "_timeout_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_silence: Callable[[], None]) -> None:
        self._loop = loop
        self._on_silence = on_silence
        self._handle: asyncio.TimerHandle | None = None
        self._timeout_s = 0.0
        self._last_sign = 0.0

    def start(self, timeout_s: float) -> None:
        """Watch from now on; an earlier watch ends."""
        if self._handle is not None:
            self._handle.cancel()
        self._timeout_s = timeout_s
        self._last_sign = self._loop.time()
        self._handle = self._loop.call_later(timeout_s, self._look)

    def note_life(self) -> None:
        """Say that something has happened."""
        self._last_sign = self._loop.time()

    def stop(self) -> None:
        """Stop watching."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _look(self) -> None:
        due = self._last_sign + self._timeout_s
        if due > self._loop.time():
            self._handle = self._loop.call_at(due, self._look)
        else:
            self._handle = None
            self._on_silence()
