"""Dashboards: uniform, complete, and about metrics that exist."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from deploy.checks.failures import require
from deploy.checks.files import RUNBOOK_URL, RUNBOOKS, Panel, read_dashboards, read_panels
from deploy.checks.promql import fill_in, selectors

_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_KINDS: Final = {"timeseries", "stat", "bargauge"}
_COLUMNS: Final = 24
_RANGES: Final = ("[$__rate_interval]", "[1h]", "[1d]")


def check_dashboards() -> None:
    """Raise CheckFailed with all that is wrong with the dashboards."""
    dashboards = read_dashboards()
    uids = Counter(dashboard["uid"] for dashboard in dashboards.values())
    findings = [f"the uid {uid} is used {count} times" for uid, count in uids.items() if count > 1]
    for name, dashboard in dashboards.items():
        findings += [f"{name}: {finding}" for finding in _look_at_dashboard(dashboard)]
    for panel in read_panels():
        findings += [f"{panel.where}: {finding}" for finding in _look_at_panel(panel)]
    require(findings, what="Dashboards")


def _look_at_dashboard(dashboard: dict[str, Any]) -> Iterator[str]:
    for key in ("title", "description", "tags", "schemaVersion", "links", "templating"):
        if not dashboard.get(key):
            yield f"{key} is missing"
    first, *others = dashboard["templating"]["list"]
    if (first["name"], first["type"], first["query"]) != ("datasource", "datasource", "prometheus"):
        yield "its first variable is not the data source"
    text = str(dashboard["panels"])
    for variable in others:
        if f"${variable['name']}" not in text:
            yield f"no panel uses the variable {variable['name']}"
    ids = Counter(panel["id"] for panel in dashboard["panels"])
    yield from (f"the id {number} is used {count} times" for number, count in ids.items() if count > 1)
    yield from _look_at_grid(dashboard["panels"])


def _look_at_grid(panels: list[dict[str, Any]]) -> Iterator[str]:
    """Panels neither overlap nor leave holes between them."""
    cells: Counter[tuple[int, int]] = Counter()
    for panel in panels:
        place = panel["gridPos"]
        cells.update(
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        )
    lines = max(y for _, y in cells) + 1
    if any(count > 1 for count in cells.values()):
        yield "panels overlap"
    if len(cells) != lines * _COLUMNS or any(x >= _COLUMNS for x, _ in cells):
        yield "the panels do not fill the lines that they stand in"


def _look_at_panel(panel: Panel) -> Iterator[str]:
    source = panel.source
    if source["type"] not in _KINDS:
        yield f"{source['type']} is none of {sorted(_KINDS)}"
    said = {**source, "unit": source["fieldConfig"]["defaults"].get("unit")}
    yield from (f"{key} is missing" for key in ("title", "description", "unit", "targets") if not said.get(key))
    if any(target.get("datasource") != _DATASOURCE for target in [source, *source.get("targets", ())]):
        yield "its data source is not the variable"
    for expression in panel.expressions:
        selectors(fill_in(expression))
        # Over a fixed, short range a panel would have holes, or pass peaks over, once somebody zooms.
        if "rate(" in expression and not any(length in expression for length in _RANGES):
            yield f"it has a rate over a range that is none of {_RANGES}: {expression}"
    yield from _look_at_links(source)


def _look_at_links(source: dict[str, Any]) -> Iterator[str]:
    for link in source.get("links", ()):
        name = link["url"].removeprefix(RUNBOOK_URL)
        if not (RUNBOOKS / name).is_file():
            yield f"there is no runbook {name}"
