"""Rules, dashboards and runbooks agree with each other and with the code; `make check-deploy` looks at more."""

from pathlib import Path

import pytest

from deploy.checks import dashboards, debian, files, metrics, rules
from deploy.checks.alertmanager import for_debian
from deploy.checks.failures import CheckFailed
from deploy.checks.promql import fill_in, metric_names, selectors, series


def test_each_alert_has_its_labels_its_tests_and_its_runbook() -> None:
    rules.check_alerts()


def test_an_alert_without_a_runbook_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rules, "RUNBOOKS", tmp_path)

    with pytest.raises(CheckFailed, match=r"LedgerImbalance: LedgerImbalance\.md has no '# LedgerImbalance'"):
        rules.check_alerts()


def test_each_dashboard_is_complete_and_uniform() -> None:
    dashboards.check_dashboards()


def test_a_panel_without_a_unit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    panel = next(files.read_panels())
    del panel.source["fieldConfig"]["defaults"]["unit"]
    monkeypatch.setattr(dashboards, "read_panels", lambda: [panel])

    with pytest.raises(CheckFailed, match=f"{panel.title}: unit is missing"):
        dashboards.check_dashboards()


def test_every_metric_that_is_looked_at_exists() -> None:
    metrics.check_metric_names()


def test_a_metric_that_nobody_has_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    known = list(metrics.expressions())
    monkeypatch.setattr(metrics, "expressions", lambda: [*known, ("a panel", "rate(zenzefi_wishes_total[5m])")])

    with pytest.raises(CheckFailed, match=r"zenzefi_wishes_total \(a panel\)"):
        metrics.check_metric_names()


def test_expressions_are_taken_apart() -> None:
    expression = fill_in('rate(asked_total{instance=~"$instance"}[$__rate_interval]) / on (job) up offset 26h > 0.5')

    assert metric_names(expression) == {"asked_total", "up"}
    assert {series(selector) for selector in selectors(expression)} == {'asked_total{instance=~".*"}', "up{}"}
    with pytest.raises(CheckFailed, match="is no PromQL"):
        selectors("rate(asked_total[5m)")


def test_secrets_of_alertmanager_are_in_files() -> None:
    text = (files.ALERTMANAGER / "alertmanager.yml").read_text(encoding="utf-8")

    assert "bot_token:" not in text
    assert "password:" not in text
    assert "api_url:" not in text
    assert "bot_token: '1:none'" in for_debian(telegram="1:none", deadman="http://127.0.0.1:1/")


def test_a_program_is_moved_to_another_folder(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\0/usr/share/thing\0more")
    folder = tmp_path / "folder"
    folder.mkdir()

    copy = debian.relocate(program, built_in="/usr/share/thing", into=folder)

    assert copy.read_bytes() == b"\0./././././././././"[:17] + b"\0more"
