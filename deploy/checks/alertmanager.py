"""Alertmanager's file: by amtool, and whether each alert reaches whom it should."""

import re
import tempfile
from pathlib import Path
from typing import Final

from deploy.checks import debian
from deploy.checks.failures import CheckFailed, require
from deploy.checks.files import ALERTMANAGER, read_alerts
from deploy.checks.running import run

_RECEIVERS: Final = {"page": "pages", "ticket": "tickets", "none": "deadman"}
# Secrets come from files. Debian 12's Alertmanager does not know that of these two yet: it gets what is in them.
_NEWER: Final = {
    r"bot_token_file: \S+": "bot_token: '{telegram}'",
    r"(?<!api_)url_file: \S+": "url: '{deadman}'",
}


def check_alertmanager() -> None:
    """Raise CheckFailed if amtool refuses the file, or if an alert's severity leads elsewhere."""
    amtool = debian.ensure("prometheus-alertmanager", binary="amtool")
    with tempfile.TemporaryDirectory(prefix="zenzefi-amtool-") as folder:
        config = Path(folder) / "alertmanager.yml"
        config.write_text(for_debian(telegram="1:none", deadman="http://127.0.0.1:1/"), encoding="utf-8")
        (Path(folder) / "templates").symlink_to(ALERTMANAGER / "templates")
        _amtool(amtool, "check-config", str(config))
        findings = []
        for alert in read_alerts():
            labels = [f"alertname={alert.name}", *(f"{name}={value}" for name, value in alert.labels.items())]
            expected = _RECEIVERS[alert.labels["severity"]]
            reached = _amtool(amtool, "config", "routes", "test", f"--config.file={config}", *labels)
            if reached != expected:
                findings.append(f"{alert.name} reaches {reached} instead of {expected}")
    require(findings, what="Alertmanager's routes")
    _check_inhibitions()


def for_debian(*, telegram: str, deadman: str) -> str:
    """The configuration as Debian 12's Alertmanager reads it, with the bot's token and the watchdog's address."""
    text = (ALERTMANAGER / "alertmanager.yml").read_text(encoding="utf-8")
    for pattern, replacement in _NEWER.items():
        text, count = re.subn(pattern, replacement.format(telegram=telegram, deadman=deadman), text)
        if count != 1:
            raise CheckFailed(f"alertmanager.yml has {count} lines like {pattern!r} instead of one")
    return text


def _check_inhibitions() -> None:
    """Every alert that an inhibition names exists: a renamed one would be silent, or not be silenced."""
    text = (ALERTMANAGER / "alertmanager.yml").read_text(encoding="utf-8")
    names = [alert.name for alert in read_alerts()]
    findings: list[str] = []
    for pattern in re.findall(r'alertname =~? "?([\w.*|]+)', text):
        for part in pattern.split("|"):
            if not any(re.fullmatch(part, name) for name in names):
                findings += [f"there is no alert {part}"]
    require(findings, what="Alertmanager's routes and inhibitions")


def _amtool(amtool: Path, *arguments: str) -> str:
    return run([amtool, *arguments])
