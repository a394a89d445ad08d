"""A Prometheus and an Alertmanager with the files of deploy/, changed only in times, targets and secrets."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from deploy.checks import debian
from deploy.checks.alertmanager import for_debian
from deploy.checks.failures import CheckFailed
from deploy.checks.files import ALERTMANAGER, PROMETHEUS, read_yaml
from deploy.checks.inboxes import TELEGRAM_TOKEN, Inboxes
from deploy.checks.servers import Servers, copy_folder
from zenzefi.devstack.ports import LOOPBACK, find_free_port

INTERVAL: Final = "1s"
# The alert that the check has fire need not hold as long as at night.
_QUICK_ALERTS: Final = {"UpstreamDown"}
_PACKAGED: Final = "/usr/share/prometheus/alertmanager"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    async def query(self, client: aiohttp.ClientSession, expression: str) -> list[Any]:
        """The series that an expression has now; raises CheckFailed."""
        async with client.post(f"{self.url}/api/v1/query", data={"query": expression}, timeout=_TIMEOUT) as response:
            answer = await response.json()
        if answer["status"] != "success":
            raise CheckFailed(f"{expression}: {answer['error']}")
        result: list[Any] = answer["data"]["result"]
        return result

    async def firing(self, client: aiohttp.ClientSession) -> set[str]:
        """The names of the alerts that fire."""
        series = await self.query(client, 'ALERTS{alertstate="firing"}')
        return {one["metric"]["alertname"] for one in series}


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the monitoring listens."""

    prometheus: str
    alertmanager: str


def choose_addresses() -> Addresses:
    """Free ones."""
    return Addresses(
        prometheus=f"{LOOPBACK}:{find_free_port()}",
        alertmanager=f"{LOOPBACK}:{find_free_port()}",
    )


def run_prometheus(servers: Servers, at: Addresses, targets: Mapping[str, Sequence[Mapping[str, Any]]]) -> Prometheus:
    """Start Debian's Prometheus; `targets` says what stands in each file of targets/."""
    folder = copy_folder(PROMETHEUS, servers.folder / "prometheus")
    for path in (folder / "targets").glob("*.yml"):
        path.write_text(yaml.safe_dump(list(targets.get(path.stem, ()))), encoding="utf-8")
    unknown = targets.keys() - {path.stem for path in (folder / "targets").glob("*.yml")}
    if unknown:
        raise CheckFailed(f"deploy/prometheus/targets has no file for {sorted(unknown)}")
    config = folder / "prometheus.yml"
    text = re.sub(r"(scrape|evaluation)_interval: \d+s", rf"\1_interval: {INTERVAL}", config.read_text("utf-8"))
    config.write_text(text.replace("[targets/", f"[{folder}/targets/"), encoding="utf-8")
    _hurry(folder / "rules")
    program = debian.ensure("prometheus", binary="prometheus")
    servers.run(
        "prometheus",
        [
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={servers.folder / 'tsdb'}",
            f"--web.listen-address={at.prometheus}",
            # What is sent before Alertmanager is found would else be sent again after a minute.
            f"--rules.alert.resend-delay={INTERVAL}",
        ],
        ready_url=f"http://{at.prometheus}/-/ready",
    )
    return Prometheus(url=f"http://{at.prometheus}")


def run_alertmanager(servers: Servers, at: Addresses, inboxes: Inboxes) -> None:
    """Start Debian's Alertmanager, with our own inboxes in the place of everybody else's."""
    folder = copy_folder(ALERTMANAGER, servers.folder / "alertmanager")
    slack_url = folder / "slack_url"
    slack_url.write_text(f"{inboxes.http_url}/slack", encoding="utf-8")
    config = yaml.safe_load(for_debian(telegram=TELEGRAM_TOKEN, deadman=f"{inboxes.http_url}/deadman"))
    ways = config["global"]
    ways.update(
        smtp_smarthost=f"{LOOPBACK}:{inboxes.smtp_port}",
        smtp_require_tls=False,
        slack_api_url_file=str(slack_url),
        telegram_api_url=inboxes.http_url,
    )
    for name in ("smtp_auth_username", "smtp_auth_password_file"):  # our mail server has no TLS to send them over
        del ways[name]
    for route in (config["route"], *config["route"]["routes"]):
        route.update(group_wait=INTERVAL, group_interval=INTERVAL)
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    servers.run(
        "alertmanager",
        [
            _alertmanager(folder),
            f"--config.file={folder / 'alertmanager.yml'}",
            f"--storage.path={servers.folder / 'alertmanager-data'}",
            f"--web.listen-address={at.alertmanager}",
            "--cluster.listen-address=",
        ],
        ready_url=f"http://{at.alertmanager}/-/ready",
        working_directory=folder,
    )


def _alertmanager(folder: Path) -> Path:
    """The program; Debian's reads its default templates from where its package would be installed."""
    program = debian.ensure("prometheus-alertmanager", binary="prometheus-alertmanager")
    files = debian.packaged(_PACKAGED)
    if Path(_PACKAGED).exists() or not files.exists():
        return program
    shutil.copytree(files, folder, dirs_exist_ok=True)
    return debian.relocate(program, built_in=_PACKAGED, into=folder)


def _hurry(rules: Path) -> None:
    """Have the alerts that the check waits for fire at once."""
    for path in rules.glob("*.yml"):
        content = read_yaml(path)
        for group in content["groups"]:
            for rule in group["rules"]:
                if rule.get("alert") in _QUICK_ALERTS:
                    rule["for"] = INTERVAL
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
