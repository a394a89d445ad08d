"""What the check of the monitoring runs: the product, the exporters, nginx, Prometheus and Alertmanager, on free ports.

All are children of this process and end with it, however it ends.
"""

import os
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyrage

from deploy.checks import debian
from deploy.checks.failures import CheckFailed
from zenzefi.devstack.binaries import find_postgres
from zenzefi.devstack.errors import DevStackError
from zenzefi.devstack.home import Home
from zenzefi.devstack.plan import Plan, make_plan
from zenzefi.devstack.ports import LOOPBACK, find_free_port, find_free_ports
from zenzefi.devstack.process import ChildProcess, Command
from zenzefi.devstack.stack import DevStack
from zenzefi.settings import Settings

_READY_TIMEOUT_S: Final = 90.0
_ANSWER_TIMEOUT_S: Final = 2.0


class Servers:
    """Starts servers in a folder of their own, and stops them in the opposite order."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack

    def run(
        self,
        name: str,
        arguments: Sequence[str | Path],
        *,
        ready_url: str = "",
        environment: Mapping[str, str] | None = None,
        working_directory: Path = debian.ROOT,
    ) -> ChildProcess:
        """Start a program, and return once `ready_url` answers with success; raises CheckFailed."""
        command = Command(
            name=name,
            arguments=arguments,
            log_file=self.folder / f"{name}.log",
            environment=debian.environment(environment),
            working_directory=working_directory,
        )
        child = ChildProcess(command)
        try:
            child.start()
            self._stack.callback(child.stop, timeout_s=3.0)
            if ready_url:
                child.wait_until(lambda: _answers(ready_url), timeout_s=_READY_TIMEOUT_S)
        except DevStackError as error:
            raise CheckFailed(str(error)) from error
        return child

    def at_end(self, callback: Callable[[], None]) -> None:
        """Have something else end with the servers."""
        self._stack.callback(callback)

    def run_product(self, environment: Mapping[str, str]) -> Plan:
        """Start what `zenzefi dev up` starts, with these variables; raises CheckFailed."""
        home = Home(self.folder / "home")
        try:
            home.open()
            self._stack.callback(home.close)
            plan = make_plan(home, {**_inherited(), **environment})
            stack = DevStack(home, plan)
            self._stack.callback(stack.stop)
            stack.start()
        except DevStackError as error:
            raise CheckFailed(str(error)) from error
        return plan


@contextmanager
def open_servers() -> Iterator[Servers]:
    """A folder for servers; at the end they are stopped and it is removed."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zenzefi-monitoring-")))
        folder.chmod(0o755)  # root's PostgreSQL runs as another user
        yield Servers(folder, stack)


def product_environment(*, upstream_url: str, smtp_port: int) -> dict[str, str]:
    """The settings of a product that does all that it can: it makes backups and sends mail, and looks around often."""
    identity = pyrage.x25519.Identity.generate()
    return {
        "PORT": str(find_free_port()),
        "INTERNAL_PORT": str(find_free_port()),
        "WORKER_METRICS_PORT": str(find_free_ports(2)),  # the second worker takes the next one
        "PROCESSES": "2",
        "UPSTREAM": upstream_url,
        "HEALTH_CHECK_INTERVAL": "1",
        "REDIS_DEADLINE": "2",  # a machine that is busy with other checks must not pass for a Redis that is away
        "PAYMENT_RETURN_HOSTS": LOOPBACK,
        "SMTP_HOST": LOOPBACK,
        "SMTP_PORT": str(smtp_port),
        "SMTP_ENCRYPTION": "none",
        "MAIL_FROM": "zenzefi@zenzefi.example",
        "BACKUP_RECIPIENTS": str(identity.to_public()),
        "BACKUP_IDENTITY": str(identity),
        "POSTGRES_BIN": str(find_postgres() / "bin"),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporters:
    """Where the exporters listen, by Prometheus' name of their job."""

    addresses: Mapping[str, str]
    blackbox: str


def run_exporters(servers: Servers, plan: Plan, *, stub_status_url: str, ca: Path) -> Exporters:
    """Start Debian's exporters beside the product's servers."""
    settings = plan.settings
    ports = {name: find_free_port() for name in ("postgres", "redis", "node", "nginx", "blackbox")}
    at = {name: f"{LOOPBACK}:{port}" for name, port in ports.items()}
    if plan.postgres is None:
        raise CheckFailed("POSTGRES_SERVER is set; this check needs the embedded server.")
    _exporter(
        servers,
        "postgres",
        at["postgres"],
        environment={"DATA_SOURCE_NAME": f"{plan.postgres.dsn(settings.postgres_db)}?sslmode=disable"},
    )
    _exporter(
        servers,
        "redis",
        at["redis"],
        f"--redis.addr=redis://{settings.redis_host}:{settings.redis_port}",
        environment={"REDIS_PASSWORD": settings.redis_password},
    )
    _exporter(servers, "node", at["node"])
    _exporter(servers, "nginx", at["nginx"], f"-nginx.scrape-uri={stub_status_url}")
    _exporter(
        servers,
        "blackbox",
        at["blackbox"],
        f"--config.file={debian.ROOT / 'deploy/prometheus/blackbox.yml'}",
        environment={"SSL_CERT_FILE": str(ca)},
    )
    return Exporters(addresses={name: at[name] for name in at if name != "blackbox"}, blackbox=at["blackbox"])


def _exporter(
    servers: Servers, kind: str, address: str, *options: str, environment: Mapping[str, str] | None = None
) -> None:
    name = f"prometheus-{kind}-exporter"
    program = debian.ensure(name, binary=name)
    servers.run(
        name,
        [program, f"--web.listen-address={address}", *options],
        ready_url=f"http://{address}/metrics",
        environment=environment,
    )


def web_address(settings: Settings) -> str:
    """Where the web processes' metrics are."""
    return f"{settings.internal_host}:{settings.internal_port}"


def worker_addresses(settings: Settings) -> list[str]:
    """Where the metrics of the two workers are."""
    port = settings.worker_metrics_port
    return [f"{settings.internal_host}:{number}" for number in (port, port + 1)]


def _inherited() -> dict[str, str]:
    """What of our own environment the product may see: nothing that would lead it to other servers."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_TIMEOUT_S) as response:  # noqa: S310  an address of ours
            return bool(response.status == 200)
    except OSError:
        return False


def copy_folder(source: Path, target: Path) -> Path:
    """Copy a folder of deploy/, to be changed for the check."""
    shutil.copytree(source, target)
    return target
