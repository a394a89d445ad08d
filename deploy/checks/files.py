"""The files of deploy/ that the checks read, as what they say."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from deploy.checks.debian import ROOT
from deploy.checks.failures import CheckFailed

DEPLOY: Final = ROOT / "deploy"
PROMETHEUS: Final = DEPLOY / "prometheus"
ALERTMANAGER: Final = DEPLOY / "alertmanager"
DASHBOARDS: Final = DEPLOY / "grafana/dashboards"
RUNBOOKS: Final = DEPLOY / "runbooks"
RUNBOOK_URL: Final = "https://github.com/zenzefi/zenzefi/blob/main/deploy/runbooks/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A recording or an alerting rule."""

    file: str
    name: str
    expression: str
    is_alert: bool
    labels: dict[str, str]
    annotations: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel of a dashboard, and its expressions."""

    dashboard: str
    title: str
    source: dict[str, Any]
    expressions: tuple[str, ...]

    @property
    def where(self) -> str:
        """What a person looks for."""
        return f"{self.dashboard}: {self.title}"


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; raises CheckFailed."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise CheckFailed(f"{path.relative_to(ROOT)} is no YAML: {error}") from error


def read_rules() -> list[Rule]:
    """All rules, in the order of their files."""
    rules: list[Rule] = []
    for path in sorted((PROMETHEUS / "rules").glob("*.yml")):
        for group in read_yaml(path)["groups"]:
            rules += [_rule(path.name, rule) for rule in group["rules"]]
    return rules


def _rule(file: str, rule: dict[str, Any]) -> Rule:
    return Rule(
        file=file,
        name=rule.get("alert") or rule["record"],
        expression=rule["expr"],
        is_alert="alert" in rule,
        labels=rule.get("labels", {}),
        annotations=rule.get("annotations", {}),
    )


def read_alerts() -> list[Rule]:
    """The alerting rules."""
    return [rule for rule in read_rules() if rule.is_alert]


def read_dashboards() -> dict[str, Any]:
    """Each dashboard's JSON by its file's name; raises CheckFailed."""
    dashboards = {}
    for path in sorted(DASHBOARDS.glob("*.json")):
        try:
            dashboards[path.name] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckFailed(f"{path.relative_to(ROOT)} is no JSON: {error}") from error
    return dashboards


def read_panels() -> Iterator[Panel]:
    """Every panel that shows something, rows left out."""
    for name, dashboard in read_dashboards().items():
        for panel in dashboard["panels"]:
            if panel["type"] != "row":
                expressions = tuple(target["expr"] for target in panel.get("targets", ()))
                yield Panel(dashboard=name, title=panel.get("title", ""), source=panel, expressions=expressions)
