"""Progress on a terminal: of what has a size, how much of it and how fast; of everything, for how long."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text


class _Amount(DownloadColumn):
    """How many bytes of how many, where there are any."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.total else Text("")


class _Speed(TransferSpeedColumn):
    """How fast, once that is known."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.finished_speed or task.speed else Text("")


class _Remaining(TimeRemainingColumn):
    """For how much longer, while that is known."""

    def render(self, task: Task) -> Text:
        if task.finished or task.time_remaining is None:
            return Text("")
        return Text.assemble(super().render(task), " left")


def open_bars(console: Console) -> Progress:
    """Bars that are gone when all is done; a context manager. What has no size only moves."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), _Amount(), _Speed(), _Remaining())
    return Progress(*columns, console=console, transient=True)
