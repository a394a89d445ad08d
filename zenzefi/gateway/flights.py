"""One flight for all who ask the same thing at the same time."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Flights(Generic[Key, Value]):
    """Questions on their way, by key: a stampede on one key asks once, and all share the answer or the error."""

    def __init__(self) -> None:
        self._tasks: dict[Key, asyncio.Task[Value]] = {}

    async def share(self, key: Key, ask: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """Join the flight of this key, or start it; a caller that is cancelled leaves the others' flight alone."""
        return await asyncio.shield(self.start(key, ask))

    def start(self, key: Key, ask: Callable[[], Coroutine[Any, Any, Value]]) -> "asyncio.Task[Value]":
        """Start the flight of this key unless it is on its way; nobody needs to wait for it."""
        task = self._tasks.get(key)
        # One that is over, and not yet taken off, would give an old answer without ever letting the event loop turn.
        if task is None or task.done():
            task = asyncio.get_running_loop().create_task(ask())
            self._tasks[key] = task
            task.add_done_callback(partial(self._land, key))
        return task

    def _land(self, key: Key, task: "asyncio.Task[Value]") -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled():
            task.exception()  # all who waited may be gone; then nobody else would ever look at it
