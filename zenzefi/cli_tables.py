"""Tables for people, and the same as plain lines for programs."""

from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

_STYLES = {
    **dict.fromkeys(("ok", "applied", "verified"), "green"),
    **dict.fromkeys(("warn", "pending", "unverified"), "yellow"),
    **dict.fromkeys(("fail", "edited", "failed", "unreadable"), "red"),
}


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, whole: str = "") -> None:
    """Print a table on a terminal; in a pipe, lines whose fields are divided by tabs.

    Where the terminal is narrow, fields are folded, but not those below `whole`, which people copy.
    """
    console = Console()
    if not console.is_terminal:
        for row in rows:
            click.echo("\t".join(row))
        return
    columns = [Column(name, overflow="fold", no_wrap=name == whole) for name in header]
    table = Table(*columns, box=None, pad_edge=False)
    for first, *rest in rows:
        table.add_row(Text(first, style=_STYLES.get(first, "")), *map(Text, rest))
    console.print(table)
