"""A server that releases are rolled out on: its folders, its databases, the stand-in for Docker, and rollout.sh."""

import asyncio
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deploy.checks.debian import ROOT
from deploy.checks.engine import ENGINE_CLIENT
from deploy.checks.failures import CheckFailed
from deploy.checks.files import DEPLOY
from deploy.checks.servers import Servers
from deploy.checks.visitors import Visitors
from zenzefi.devstack.errors import DevStackError
from zenzefi.devstack.home import Home
from zenzefi.devstack.plan import Plan, make_plan
from zenzefi.devstack.ports import LOOPBACK
from zenzefi.devstack.provision import provision_database

_HASTE: Final = {"ROLLOUT_HEALTHY_WITHIN_S": "180", "ROLLOUT_SETTLE_S": "0.5", "ROLLOUT_POLL_S": "0.1"}
_START_TIMEOUT_S: Final = 60.0
# What Python renames as soon as it has written it: the release that is copied runs.
_HALF_WRITTEN: Final = shutil.ignore_patterns("*.pyc.*")
_SETTINGS: Final = {
    "PROCESSES": "1",
    "RATE_LIMIT_AUTH": "off",
    "RATE_LIMIT_API": "off",
    "RATE_LIMIT_PROXY": "off",
    "REDIS_DEADLINE": "2",  # a machine that is busy with other checks must not pass for a Redis that is away
    "DRAIN_TIMEOUT": "30",
    "S3_ENDPOINT_URL": f"http://{LOOPBACK}:9",  # no backup is due meanwhile
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release: its folder on the server, the sources that its images are made of, and their digests."""

    folder: Path
    source: Path
    web: str
    worker: str

    @property
    def script(self) -> Path:
        """What the deploy job runs."""
        return self.folder / "deploy/rollout.sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A running container."""

    id: str
    service: str
    image: str
    url: str


class Server:
    """What would be /opt/zenzefi and Docker on a real one."""

    def __init__(self, servers: Servers, stack: ExitStack) -> None:
        self.root = servers.folder / "opt"
        self._servers = servers
        self._stack = stack
        self._engine = servers.folder / "engine"
        self._programs = servers.folder / "bin"
        self._images: dict[str, Any] = {}
        self._environment: Mapping[str, str] = {}

    def start(self) -> None:
        """Start what the product needs, and the stand-in for Docker; raises CheckFailed."""
        for folder in (self._engine, self._programs, self.root / "releases", self.root / "secrets"):
            folder.mkdir(parents=True)
        try:
            self._environment = {**self._run_stores().environment, "PYTHONUNBUFFERED": "1"}
        except DevStackError as error:
            raise CheckFailed(str(error)) from error
        self._tell_host()
        socket = self._engine / "engine.socket"
        client = self._programs / "docker"
        client.write_text(ENGINE_CLIENT.format(python=sys.executable, socket=str(socket)), encoding="utf-8")
        client.chmod(0o755)
        engine = self._servers.run("engine", [sys.executable, "-m", "deploy.checks.engine", self._engine])
        engine.wait_until(socket.exists, timeout_s=_START_TIMEOUT_S)

    def _run_stores(self) -> Plan:
        home = Home(self._servers.folder / "home")
        home.open()
        self._stack.callback(home.close)
        own = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        plan = make_plan(home, {**own, **_SETTINGS})
        for server in (plan.postgres, plan.valkey):
            if server is not None:
                self._stack.callback(server.stop)
                server.start()
        if plan.postgres is not None:
            provision_database(plan.postgres.dsn(), plan.settings)
        arguments = [sys.executable, "-m", "zenzefi.devstack.upstream", "--port", str(plan.upstream_port)]
        self._servers.run("upstream", arguments)
        return plan

    def _tell_host(self) -> None:
        document = {"images": self._images, "environment": dict(self._environment)}
        (self._engine / "host.json").write_text(json.dumps(document), encoding="utf-8")

    def add_release(self, name: str, change: Callable[[Path], None], *, after: Release | None = None) -> Release:
        """Push images of a changed product, and copy the release's files, as deploy.yml does."""
        source = self._servers.folder / "sources" / name
        for part in ("zenzefi", "workers", "migrations"):
            shutil.copytree((ROOT if after is None else after.source) / part, source / part, ignore=_HALF_WRITTEN)
        change(source)
        folder = self.root / "releases" / name
        (folder / "deploy").mkdir(parents=True)
        shutil.copy(ROOT / "docker-compose.yml", folder)
        shutil.copy(DEPLOY / "rollout.sh", folder / "deploy")
        images = {}
        for image, command in (("web", "serve"), ("worker", "worker")):
            digest = hashlib.sha256(f"{name} {image}".encode()).hexdigest()
            images[image] = f"docker.io/example/zenzefi-{image}@sha256:{digest}"
            self._images[images[image]] = {"source": str(source), "command": [command]}
        self._tell_host()
        return Release(folder=folder, source=source, **images)

    def visitors(self) -> Visitors:
        """Those who go to this server."""
        return Visitors(self._engine / "instances.json")

    def instances(self, service: str) -> list[Instance]:
        """The running instances of a service, those that came first before the others."""
        documents = json.loads((self._engine / "instances.json").read_text(encoding="utf-8"))
        return [Instance(**document) for document in documents if document["service"] == service]

    async def start_script(self, script: Path, *arguments: str) -> asyncio.subprocess.Process:
        """Start rollout.sh, as the deploy job does."""
        path = f"{self._programs}{os.pathsep}{os.environ['PATH']}"
        return await asyncio.create_subprocess_exec(
            "bash",
            script,
            *arguments,
            env={**os.environ, **_HASTE, "PATH": path},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
