"""Every metric that a rule or a dashboard names is one that the code declares, or one of an exporter's."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deploy.checks.failures import require
from deploy.checks.files import read_panels, read_rules
from deploy.checks.promql import fill_in, metric_names
from zenzefi.infra import business_instruments, state_instruments
from zenzefi.infra.instruments import REGISTRY
from zenzefi.infra.metrics import Kind

_EXPORTERS: Final = Path(__file__).with_name("exporter_metrics.toml")
_DECLARING: Final = (business_instruments, state_instruments)  # both fill the same registry


def check_metric_names() -> None:
    """Raise CheckFailed with each metric that nobody has, and each that is listed and not used."""
    declared = declared_names()
    of_exporters = {name for names in tomllib.loads(_EXPORTERS.read_text(encoding="utf-8")).values() for name in names}
    recorded = {rule.name for rule in read_rules() if not rule.is_alert}
    used: dict[str, str] = {}
    for where, expression in expressions():
        for name in metric_names(expression):
            used.setdefault(name, where)
    known = declared | of_exporters | recorded | {"ALERTS"}
    require((f"{name} ({where})" for name, where in used.items() if name not in known), what="Nobody has these metrics")
    require(sorted(of_exporters - used.keys()), what=f"{_EXPORTERS.name} lists metrics that nothing uses")
    require(sorted(recorded - used.keys()), what="Nothing uses these recorded series")


def expressions() -> Iterator[tuple[str, str]]:
    """Where it stands and what it is, of every expression of the rules and dashboards."""
    for rule in read_rules():
        yield f"{rule.file}: {rule.name}", rule.expression
    for panel in read_panels():
        for expression in panel.expressions:
            yield panel.where, fill_in(expression)


def declared_names() -> set[str]:
    """The names of all series that the product may show."""
    names = set()
    for metric in REGISTRY.metrics.values():
        if metric.kind is Kind.HISTOGRAM:
            names |= {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
        else:
            names.add(metric.name)
    return names
