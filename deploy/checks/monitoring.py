"""The monitoring as a whole: a real Prometheus watches the running product under load, and a real alert arrives.

The product, Debian's exporters, nginx, Prometheus and Alertmanager run on free ports of the loopback address, with the
files of deploy/. People use the product. Nothing may fire; then the upstream is taken away, and mail, Slack and
Telegram have to tell of it, and of its return; at last every expression of every panel and alert has to find data.
"""

import asyncio
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, Final

import aiohttp

from deploy.checks import debian
from deploy.checks.expressions import check_expressions
from deploy.checks.failures import require
from deploy.checks.inboxes import Inboxes, open_inboxes
from deploy.checks.prometheus import Addresses, Prometheus, choose_addresses, run_alertmanager, run_prometheus
from deploy.checks.proxy import Proxy, run_proxy
from deploy.checks.running import run
from deploy.checks.servers import (
    Exporters,
    Servers,
    open_servers,
    product_environment,
    run_exporters,
    web_address,
    worker_addresses,
)
from deploy.checks.traffic import generate_traffic
from zenzefi.devstack.plan import Plan
from zenzefi.devstack.ports import LOOPBACK, find_free_port
from zenzefi.infra.queue import JobQueue
from zenzefi.jobs import Job
from zenzefi.settings import Settings

_WAYS: Final = ("mails", "slack", "telegram")
_QUIET_S: Final = 10.0  # for so long nothing may fire
_SETTLED_TIMEOUT_S: Final = 120.0
_ALERT_TIMEOUT_S: Final = 180.0
_DATA_TIMEOUT_S: Final = 180.0


def check_monitoring() -> None:
    """Raise CheckFailed when the monitoring does not see, or does not tell."""
    asyncio.run(_check())


async def _check() -> None:
    with open_servers() as servers:
        async with open_inboxes() as inboxes:
            upstream = _Upstream(servers)
            upstream.start()
            plan = servers.run_product(product_environment(upstream_url=upstream.url, smtp_port=inboxes.smtp_port))
            prometheus = _run_monitoring(servers, plan, inboxes)
            base_url = f"http://{plan.settings.host}:{plan.settings.port}"
            async with generate_traffic(base_url):
                await _do_nightly_work(plan.settings)
                _check_exposition(plan.settings)
                await _stay_quiet(prometheus)
                await inboxes.wait_for("Watchdog", ways=("deadman",), timeout_s=_ALERT_TIMEOUT_S)
                upstream.stop()
                await inboxes.wait_for("[PAGE] UpstreamDown", "UpstreamDown.md", ways=_WAYS, timeout_s=_ALERT_TIMEOUT_S)
                upstream.start()
                await inboxes.wait_for("[RESOLVED] UpstreamDown", ways=_WAYS, timeout_s=_ALERT_TIMEOUT_S)
                count = await check_expressions(prometheus, timeout_s=_DATA_TIMEOUT_S)
    print(f"  {count} expressions looked at; UpstreamDown came and went by {', '.join(_WAYS)}")


class _Upstream:
    """The demo upstream, outside of the product, so that it can be taken away."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._port = find_free_port()
        self.url = f"http://{LOOPBACK}:{self._port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "zenzefi.devstack.upstream", "--port", str(self._port)]
        self._child = self._servers.run("upstream", command, ready_url=self.url)

    def stop(self) -> None:
        self._child.stop()


def _run_monitoring(servers: Servers, plan: Plan, inboxes: Inboxes) -> Prometheus:
    proxy = run_proxy(servers, web=f"{plan.settings.host}:{plan.settings.port}")
    exporters = run_exporters(servers, plan, stub_status_url=proxy.stub_status_url, ca=proxy.ca)
    at = choose_addresses()
    run_alertmanager(servers, at, inboxes)
    return run_prometheus(servers, at, _targets(plan.settings, proxy, exporters, at))


def _targets(
    settings: Settings, proxy: Proxy, exporters: Exporters, at: Addresses
) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    return {
        "zenzefi-web": [{"targets": [web_address(settings)]}],
        "zenzefi-worker": [{"targets": worker_addresses(settings)}],
        "public": [{"targets": [f"{proxy.url}/health"], "labels": {"exporter": exporters.blackbox}}],
        "alertmanager": [{"targets": [at.alertmanager]}],
        "monitoring": [{"targets": [at.prometheus, at.alertmanager, exporters.blackbox]}],
        **{name: [{"targets": [address]}] for name, address in exporters.addresses.items()},
    }


async def _do_nightly_work(settings: Settings) -> None:
    """Have done what is due at night only."""
    queue = JobQueue(settings)
    try:
        for job in (Job.INSPECT_LEDGER, Job.VERIFY_AUDIT_LOG, Job.BACK_UP_DATABASE):
            await queue.enqueue(job)
    finally:
        await queue.aclose()


def _check_exposition(settings: Settings) -> None:
    """What the processes show is as Prometheus' own linter wants it."""
    promtool = debian.ensure("prometheus", binary="promtool")
    for address in (web_address(settings), *worker_addresses(settings)):
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as response:
            text = response.read().decode()
        run([promtool, "check", "metrics"], input_text=text)


async def _stay_quiet(prometheus: Prometheus) -> None:
    """Everything is well: only the watchdog may fire.

    On a machine that stands still for a second a scrape fails once, and the first requests are slow: that may take a
    while to pass, and what does not pass is told.
    """
    async with aiohttp.ClientSession() as client:
        loop = asyncio.get_running_loop()
        deadline, quiet_since = loop.time() + _SETTLED_TIMEOUT_S, loop.time()
        while loop.time() < quiet_since + _QUIET_S:
            down = [str(one["metric"]) for one in await prometheus.query(client, "up == 0")]
            firing = sorted(await prometheus.firing(client) - {"Watchdog"})
            if down or firing:
                quiet_since = loop.time()
            if loop.time() > deadline:
                require(down, what="Prometheus cannot scrape")
                require(firing, what="These alerts fire though all is well")
            await asyncio.sleep(1.0)
