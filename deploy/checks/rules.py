"""Prometheus' files: by promtool, and whether each alert has what a person needs at night."""

import re
from collections.abc import Iterator
from typing import Final

from deploy.checks import debian
from deploy.checks.failures import CheckFailed, require
from deploy.checks.files import PROMETHEUS, RUNBOOK_URL, RUNBOOKS, Rule, read_alerts, read_yaml
from deploy.checks.running import run

_SEVERITIES: Final = {"page", "ticket", "none"}
_TESTED_ALERT: Final = re.compile(r'ALERTS\{alertname="(\w+)",alertstate="firing"\}')
_ALWAYS_FIRING: Final = {"Watchdog"}


def check_rules() -> None:
    """Raise CheckFailed with all that is wrong with rules, alerts and their tests."""
    promtool = debian.ensure("prometheus", binary="promtool")
    rules = sorted((PROMETHEUS / "rules").glob("*.yml"))
    tests = sorted((PROMETHEUS / "tests").glob("*.yml"))
    run([promtool, "check", "config", "--lint=all", "--lint-fatal", PROMETHEUS / "prometheus.yml"])
    run([promtool, "check", "rules", "--lint=all", "--lint-fatal", *rules])
    run([promtool, "test", "rules", *tests])


def check_alerts() -> None:
    """Raise CheckFailed with each alert that lacks a label, a word, a test or a runbook, and each orphaned runbook."""
    alerts = read_alerts()
    require((finding for alert in alerts for finding in _look_at(alert)), what="Alerts")
    names = [alert.name for alert in alerts]
    require((name for name in sorted(set(names)) if names.count(name) > 1), what="Alerts of the same name")
    require(sorted({path.stem for path in RUNBOOKS.glob("*.md")} - set(names)), what="Runbooks without an alert")
    fired, quiet = _tested()
    require(sorted(set(names) - fired), what="No test has these alerts fire")
    require(sorted(set(names) - quiet - _ALWAYS_FIRING), what="No test has these alerts not fire")


def _look_at(alert: Rule) -> Iterator[str]:
    if alert.labels.get("severity") not in _SEVERITIES:
        yield f"{alert.name}: its severity is none of {sorted(_SEVERITIES)}"
    if not alert.labels.get("component"):
        yield f"{alert.name}: the label component is missing"
    for key in ("summary", "description"):
        if not alert.annotations.get(key):
            yield f"{alert.name}: {key} is missing"
    if alert.annotations.get("runbook_url") != f"{RUNBOOK_URL}{alert.name}.md":
        yield f"{alert.name}: runbook_url is not {RUNBOOK_URL}{alert.name}.md"
    runbook = RUNBOOKS / f"{alert.name}.md"
    text = runbook.read_text(encoding="utf-8") if runbook.is_file() else ""
    for heading in (f"# {alert.name}\n", "\n## Meaning\n", "\n## First look\n", "\n## Fix\n"):
        if heading not in text:
            yield f"{alert.name}: {runbook.name} has no {heading.strip()!r}"


def _tested() -> tuple[set[str], set[str]]:
    """The alerts that a test has fire, and those that a test has not fire."""
    fired: set[str] = set()
    quiet: set[str] = set()
    for path in sorted((PROMETHEUS / "tests").glob("*.yml")):
        for test in read_yaml(path)["tests"]:
            for case in test["promql_expr_test"]:
                match = _TESTED_ALERT.search(case["expr"])
                if match is None:
                    raise CheckFailed(f"{path.name} has a test of no alert: {case['expr']}")
                (fired if case["exp_samples"] else quiet).add(match[1])
    return fired, quiet
