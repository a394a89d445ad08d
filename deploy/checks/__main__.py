"""Run the checks of deploy/: all of them, or those that are named. A new one is a line in CHECKS."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from deploy.checks.acme import check_acme
from deploy.checks.alertmanager import check_alertmanager
from deploy.checks.backup_by_hand import check_backup_by_hand
from deploy.checks.compose import check_compose
from deploy.checks.container import check_container
from deploy.checks.dashboards import check_dashboards
from deploy.checks.dockerfile import check_dockerfile
from deploy.checks.environment import check_environment
from deploy.checks.failures import CheckFailed
from deploy.checks.guides import check_guides
from deploy.checks.kubernetes import check_kubernetes
from deploy.checks.metrics import check_metric_names
from deploy.checks.monitoring import check_monitoring
from deploy.checks.nginx import check_nginx
from deploy.checks.nginx_failover import check_failover
from deploy.checks.nginx_tls import check_tls
from deploy.checks.nginx_traffic import check_traffic
from deploy.checks.rollout import check_rollout
from deploy.checks.rules import check_alerts, check_rules
from deploy.checks.shell import check_shell
from deploy.checks.systemd import check_systemd
from deploy.checks.systemd_services import check_services
from deploy.checks.text import check_yaml
from deploy.checks.workflows import check_workflows

_SIDE_BY_SIDE: Final = 2
# In this order: the quick ones first.
CHECKS: Final[Mapping[str, Callable[[], None]]] = {
    "yaml": check_yaml,
    "shell": check_shell,
    "workflows": check_workflows,
    "dockerfile": check_dockerfile,
    "environment": check_environment,
    "compose": check_compose,
    "guides": check_guides,
    "alerts": check_alerts,
    "dashboards": check_dashboards,
    "metric-names": check_metric_names,
    "rules": check_rules,
    "alertmanager": check_alertmanager,
    "systemd": check_systemd,
    "systemd-services": check_services,
    "nginx": check_nginx,
    "nginx-tls": check_tls,
    "acme": check_acme,
    "nginx-traffic": check_traffic,
    "nginx-failover": check_failover,
    "backup-by-hand": check_backup_by_hand,
    "kubernetes": check_kubernetes,
    "container": check_container,
    "rollout": check_rollout,
    "monitoring": check_monitoring,
}


def main(names: Sequence[str]) -> int:
    """Run the named checks, or all; each says what is wrong with it. Returns the exit code."""
    unknown = set(names) - CHECKS.keys()
    if unknown:
        print(f"There is no check {', '.join(sorted(unknown))}, but {', '.join(CHECKS)}.", file=sys.stderr)
        return 2
    if len(names) == 1:
        return 0 if _passes(names[0]) else 1
    failed = asyncio.run(_run_side_by_side(list(names or CHECKS)))
    print(f"{len(names or CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _passes(name: str) -> bool:
    started = time.monotonic()
    try:
        CHECKS[name]()
    except CheckFailed as failure:
        print(f"FAILED {name} ({time.monotonic() - started:.1f} s)\n{failure}", flush=True)
        return False
    print(f"passed {name} ({time.monotonic() - started:.1f} s)", flush=True)
    return True


async def _run_side_by_side(names: Sequence[str]) -> int:
    """Run each check in a process of its own, two at a time, for most of them wait a lot; returns how many failed."""
    slots = asyncio.Semaphore(_SIDE_BY_SIDE)

    async def run_one(name: str) -> bool:
        async with slots:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "deploy.checks", name, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            output, _ = await process.communicate()
        print(output.decode(), end="", flush=True)
        return process.returncode == 0

    return (await asyncio.gather(*map(run_one, names))).count(False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
