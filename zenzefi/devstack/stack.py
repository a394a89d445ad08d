"""The development stack: starts everything in order, watches it, and stops all of it within 5 seconds."""

import dataclasses
import http.client
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from zenzefi.devstack.demo import DemoClient, DemoFailed
from zenzefi.devstack.embedded import EmbeddedServer
from zenzefi.devstack.errors import ServerDied
from zenzefi.devstack.home import Home
from zenzefi.devstack.plan import Plan
from zenzefi.devstack.ports import LOOPBACK, find_free_port, require_free_port
from zenzefi.devstack.process import ChildProcess, Command
from zenzefi.devstack.provision import provision_database
from zenzefi.devstack.summary import Description
from zenzefi.infra.migrations import migrate_up

ADMIN_EMAIL = "admin@example.com"
ADMIN_USERNAME = "admin"

_READY_TIMEOUT_S = 60.0  # two seconds on an idle machine
_PROBE_TIMEOUT_S = 2.0
_WATCH_INTERVAL_S = 0.2
# Three steps of stopping, each bounded, below 5 s in all. The servers come last: the others still use them.
_WEB_STOP_S = 2.2
_JOBS_STOP_S = 0.8
_SERVERS_STOP_S = 1.4
_LAST_PORT = 65_535


class _Stoppable(Protocol):
    def request_stop(self) -> None: ...

    def stop(self, *, timeout_s: float) -> None: ...


class DevStack:
    """All processes of one development stack, children of this one."""

    def __init__(self, home: Home, plan: Plan) -> None:
        self._home = home
        self._plan = plan
        self._settings = plan.settings
        self._servers: list[EmbeddedServer] = []
        self._programs: dict[str, ChildProcess] = {}

    def start(self) -> None:
        """Start everything; returns when the web processes are ready for requests, and the admin exists.

        Raises DevStackError or MigrationError.
        """
        self._require_ports()
        self._start_servers()
        migrate_up(self._settings)
        if self._plan.upstream_port is not None:
            self._start_program("upstream", ["zenzefi.devstack.upstream", "--port", str(self._plan.upstream_port)])
        web = self._start_program("web", ["zenzefi", "serve", "--processes", str(self._settings.processes)])
        self._start_program("worker", ["zenzefi", "worker"])
        self._create_admin()
        if self._plan.s3 is not None:
            self._plan.s3.wait_until_ready()  # the slowest to start, and nobody needs it before the first backup
        web.wait_until(self._is_ready, timeout_s=_READY_TIMEOUT_S)
        # Nobody waits for what it does, so it need not compete with the others' start.
        port = _next_port(self._settings.worker_metrics_port)
        self._start_program("worker-heavy", ["zenzefi", "worker", "--queue", "heavy"], WORKER_METRICS_PORT=str(port))
        self._require_alive()

    def find_demo_token(self) -> tuple[str, str]:
        """A token of the demo account that the gateway takes, and "" or why there is none."""
        home, settings = self._home, self._settings
        client = DemoClient(host=_reachable(settings.host), port=settings.port)
        try:
            token = client.ensure_token(home.state.demo_token, password=home.state.demo_password)
        except DemoFailed as error:
            self._require_alive()
            return "", f"There is no demo token. {error}"
        home.save(dataclasses.replace(home.state, demo_token=token))
        return token, ""

    def describe(self, *, token: str) -> Description:
        """What the user of this stack needs to know."""
        settings = self._settings
        return Description(
            base_url=f"http://{_reachable(settings.host)}:{settings.port}",
            internal_url=f"http://{_reachable(settings.internal_host)}:{settings.internal_port}",
            upstream_url=settings.upstream_url,
            is_demo_upstream=self._plan.upstream_port is not None,
            servers=(
                f"PostgreSQL {settings.postgres_server}:{settings.postgres_port}, "
                f"Valkey {settings.redis_host}:{settings.redis_port}, S3 {settings.s3.endpoint_url}"
            ),
            docs_enabled=settings.docs_enabled,
            processes=settings.processes,
            home=self._home.directory,
            logs=self._home.logs,
            admin_email=ADMIN_EMAIL,
            admin_password=self._home.state.admin_password,
            token=token,
        )

    def watch(self) -> NoReturn:
        """Look after the children until one dies: raises ServerDied, which names it and its log's last lines."""
        while True:
            self._require_alive()
            time.sleep(_WATCH_INTERVAL_S)

    def stop(self) -> None:
        """Stop the web processes, then workers and upstream, then S3, Valkey and PostgreSQL. Idempotent."""
        web = [child for name, child in self._programs.items() if name == "web"]
        jobs = [child for name, child in self._programs.items() if name != "web"]
        _stop_together(web, timeout_s=_WEB_STOP_S)
        _stop_together(jobs, timeout_s=_JOBS_STOP_S)
        _stop_together(self._servers, timeout_s=_SERVERS_STOP_S)

    def _require_ports(self) -> None:
        settings = self._settings
        for name, host, port in (
            ("PORT", settings.host, settings.port),
            ("INTERNAL_PORT", settings.internal_host, settings.internal_port),
        ):
            fix = f"Choose another: make run {name}={find_free_port()}"
            require_free_port(port, host=host, server="zenzefi", fix=fix)

    def _start_servers(self) -> None:
        plan = self._plan
        servers: tuple[EmbeddedServer | None, ...] = (plan.s3, plan.valkey, plan.postgres)
        for server in filter(None, servers):
            self._servers.append(server)
            server.launch()
        for server in filter(None, (plan.valkey, plan.postgres)):
            server.wait_until_ready()
        if plan.postgres is not None:
            provision_database(plan.postgres.dsn(), self._settings)

    def _start_program(self, name: str, arguments: Sequence[str], **variables: str) -> ChildProcess:
        child = self._programs[name] = ChildProcess(self._command(name, arguments, **variables))
        child.start()
        return child

    def _create_admin(self) -> None:
        """Make the superuser, which is no error when it exists."""
        arguments = ["zenzefi", "create-superuser", "--email", ADMIN_EMAIL, "--username", ADMIN_USERNAME]
        arguments += ["--password-stdin", "--if-missing"]
        command = self._command("create-superuser", arguments, f"{self._home.state.admin_password}\n")
        self._programs["create-superuser"] = child = ChildProcess(command)
        child.run(timeout_s=_READY_TIMEOUT_S)
        del self._programs["create-superuser"]

    def _command(
        self, name: str, arguments: Sequence[str], standard_input: str | None = None, **variables: str
    ) -> Command:
        return Command(
            name=name,
            arguments=[sys.executable, "-m", *arguments],
            log_file=self._home.logs / f"{name}.log",
            environment={**self._plan.environment, "PYTHONUNBUFFERED": "1", **variables},
            working_directory=Path.cwd(),
            # Nobody is left who could wait for them, and they keep nothing that a kill could break.
            death_signal=signal.SIGKILL,
            lock_file=self._home.run / f"{name}.lock",
            standard_input=None if standard_input is None else standard_input.encode(),
        )

    def _is_ready(self) -> bool:
        self._require_alive()
        host, port = _reachable(self._settings.internal_host), self._settings.internal_port
        connection = http.client.HTTPConnection(host, port, timeout=_PROBE_TIMEOUT_S)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _require_alive(self) -> None:
        for child in [*(server.child for server in self._servers), *self._programs.values()]:
            if child.returncode is not None:
                raise ServerDied(child.obituary())


def _stop_together(children: Sequence[_Stoppable], *, timeout_s: float) -> None:
    """Ask all of them at once, then wait for each, `timeout_s` seconds in all."""
    deadline = time.monotonic() + timeout_s
    for child in children:
        child.request_stop()
    for child in children:
        child.stop(timeout_s=max(0.0, deadline - time.monotonic()))


def _next_port(port: int) -> int:
    """Where the second worker's metrics are: beside the first's; 0 is nowhere."""
    return port + 1 if 0 < port < _LAST_PORT else 0


def _reachable(host: str) -> str:
    """An address that reaches a server which listens on this one."""
    return LOOPBACK if host in ("0.0.0.0", "::", "") else host  # noqa: S104  compared, not bound
