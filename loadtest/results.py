"""Results: one JSON file for each benchmark, and a Markdown table of all of them."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from zenzefi.errors import JsonObject

TABLE: Final = "RESULTS.md"
_HEAD: Final = (
    "| Benchmark | Figure | Value | Share | How | Machine | When |",
    "| --- | --- | ---: | ---: | --- | --- | --- |",
)
_SHORT_HEAD: Final = ("| Figure | Value | How | Where |", "|---|---:|---|---|")
BEGIN: Final = "<!-- figures of make bench -->"
END: Final = "<!-- end of figures -->"


def write_result(directory: Path, result: JsonObject) -> None:
    """Write one benchmark's file, and the table anew from all files that are there."""
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / f"{result['benchmark']}.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    write_whole(directory / TABLE, markdown(read_results(directory)))


def markdown(results: Iterable[JsonObject]) -> str:
    """The table of these results."""
    rows = [_row(result, figure) for result in results for figure in cast(list[dict[str, Any]], result["figures"])]
    return "\n".join((*_HEAD, *rows)) + "\n"


def headlines(results: Iterable[JsonObject], names: Mapping[str, Sequence[str]]) -> str:
    """A short table of the figures of these names by benchmark, for README.md; those that are missing are left out."""
    rows = [
        _headline(result, figure)
        for result in results
        for figure in cast(list[dict[str, Any]], result["figures"])
        if figure["name"] in names.get(str(result["benchmark"]), ())
    ]
    return "\n".join((*_SHORT_HEAD, *rows)) + "\n"


def quote(text: str, table: str) -> str:
    """A text in which the table stands between the two marks.

    Raises:
        ValueError: the text has not both of them.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"there is no place between {BEGIN} and {END}")
    return f"{before}{begin}\n{table}{end}{after}"


def read_results(directory: Path) -> list[JsonObject]:
    """What is there of all benchmarks."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.json"))]


def format_value(value: float) -> str:
    """A number with three digits that matter, or all of its whole ones."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _headline(result: JsonObject, figure: dict[str, Any]) -> str:
    machine = cast(dict[str, Any], result["machine"])
    value = f"{format_value(figure['value'])} {figure['unit']}"
    ratio = "" if figure["ratio"] is None else f" (share {format_value(figure['ratio'])})"
    method = figure["method"].partition("; ")[0]
    where = f"{machine['cores']} cores, {machine['memory_gib']:g} GiB, {str(result['date'])[:10]}"
    cells = (f"{result['benchmark']}: {figure['name']}", value + ratio, method, where)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _row(result: JsonObject, figure: dict[str, Any]) -> str:
    machine = cast(dict[str, Any], result["machine"])
    ratio = "" if figure["ratio"] is None else format_value(figure["ratio"])
    cells = (
        str(result["benchmark"]),
        figure["name"],
        f"{format_value(figure['value'])} {figure['unit']}",
        ratio,
        figure["method"],
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, {machine['cpu']}",
        f"{str(result['date'])[:10]}, {result['commit']}",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write_whole(path: Path, text: str) -> None:
    """Write a file in one step: whoever reads it finds the old one or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
