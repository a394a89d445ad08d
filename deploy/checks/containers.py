"""Containers without an engine: the services of docker-compose.yml, run in trees as Docker would run them.

User, command, variables, secrets, mounts, read-only root, lost rights and networks are those of the file. Limits of
CPU, memory and processes, logs and restarts are not: they would need an engine.
"""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deploy.checks.boxes import Box, Mount
from deploy.checks.compose_file import Service, environment_of, secrets_of
from deploy.checks.debian import ROOT
from deploy.checks.dockerfile import Image
from deploy.checks.failures import CheckFailed
from deploy.checks.running import run
from deploy.checks.servers import Servers
from zenzefi.devstack.process import ChildProcess

_HEALTH_TIMEOUT_S: Final = 120.0
_POLL_S: Final = 0.2
_UNITS: Final = {"k": 1024, "m": 1024**2, "g": 1024**3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What all containers share: .env, the folder of secrets, one for volumes, and the servers that end with us."""

    servers: Servers
    env_file: Mapping[str, str]
    secrets: Path
    volumes: Path


@dataclass(slots=True, kw_only=True)
class Container:
    """One service, in the tree that stands in for its image. `extra` is mounted to make up for what the tree lacks."""

    name: str
    service: Service
    project: Project
    tree: Path
    image: Image
    namespace: Sequence[str]
    hosts: str
    extra: Sequence[Mount] = ()
    child: ChildProcess | None = field(default=None, init=False)

    def start(self) -> None:
        """Run its command in the background."""
        command = [*self.namespace, *self._box().command(self._arguments())]
        self.child = self.project.servers.run(self.name, command, working_directory=Path("/"))

    def run_to_end(self, *, timeout_s: float = 60.0) -> None:
        """Start it and wait until it has ended well; raises CheckFailed."""
        self.start()
        if self.wait(timeout_s=timeout_s) != 0:
            raise CheckFailed(self._running().obituary())

    def wait_until_healthy(self) -> None:
        """Return once its health check passes, which the engine would repeat; raises CheckFailed."""
        kind, *test = self.service["healthcheck"]["test"]
        command = ["/bin/sh", "-c", *test] if kind == "CMD-SHELL" else test
        deadline = time.monotonic() + _HEALTH_TIMEOUT_S
        while True:
            try:
                self.execute(command)
            except CheckFailed as failure:
                if self._running().returncode is not None or time.monotonic() > deadline:
                    raise CheckFailed(f"{failure}\n{self._running().obituary()}") from None
                time.sleep(_POLL_S)
            else:
                return

    def execute(self, command: Sequence[str], *, timeout_s: float = 60.0) -> str:
        """Run a command inside, as `docker compose exec` does; returns what it printed, and raises CheckFailed."""
        user, _, group = self._user().partition(":")
        rights = ["--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--"]
        inside = ["/usr/bin/setpriv", "--reuid", user, "--regid", group or user, *rights, *command]
        spaces = ["--mount", "--net", "--ipc", "--uts", "--pid", "--"]
        try:
            return run(
                ["/usr/bin/nsenter", "--target", str(self._init()), *spaces, *inside],
                timeout_s=timeout_s,
                environment=self._environment(),
            )
        except CheckFailed as failure:
            raise CheckFailed(f"{self.name}: {' '.join(command)}\n{failure}") from None

    def stop(self) -> float:
        """Send its stop signal and wait for the end, which has to be in order; returns the seconds that it took."""
        started = time.monotonic()
        os.kill(self._init(), signal.Signals[self.service.get("stop_signal", self.image.stop_signal)])
        code = self.wait(timeout_s=_seconds(self.service.get("stop_grace_period", "10s")))
        if code != 0:
            raise CheckFailed(f"{self.name} did not stop in order. {self._running().obituary()}")
        return time.monotonic() - started

    def wait(self, *, timeout_s: float) -> int:
        """The exit code, once there is one; raises CheckFailed."""
        deadline = time.monotonic() + timeout_s
        while (code := self._running().returncode) is None:
            if time.monotonic() > deadline:
                raise CheckFailed(f"{self.name} did not end within {timeout_s:g} s. {self._running().obituary()}")
            time.sleep(0.02)
        return code

    def status(self) -> dict[str, str]:
        """What the kernel says of its first process."""
        lines = Path(f"/proc/{self._init()}/status").read_text(encoding="utf-8").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def _init(self) -> int:
        """The number, here, of the process that is number 1 inside."""
        pid = self._running().pid
        deadline = time.monotonic() + 30.0
        while not (children := Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()):
            if self._running().returncode is not None or time.monotonic() > deadline:
                raise CheckFailed(self._running().obituary())
            time.sleep(0.01)
        return int(children[0])

    def _running(self) -> ChildProcess:
        if self.child is None:
            raise CheckFailed(f"{self.name} has not been started.")
        return self.child

    def _user(self) -> str:
        return str(self.service.get("user", self.image.user))

    def _arguments(self) -> list[str]:
        entrypoint = self.service.get("entrypoint", self.image.entrypoint)
        return [str(part) for part in (*entrypoint, *self.service.get("command", self.image.command))]

    def _environment(self) -> dict[str, str]:
        return {**self.image.environment, **environment_of(self.service, self.project.env_file)}

    def _box(self) -> Box:
        return Box(
            tree=self.tree,
            user=self._user(),
            working_directory=self.image.working_directory,
            environment=self._environment(),
            mounts=[*self._memory(), *self._volumes(), *self._secrets(), *self.extra, self._hosts_file()],
        )

    def _memory(self) -> list[Mount]:
        mounts = [Mount(target="/dev/shm", mode="1777")]  # noqa: S108  the container's own
        for entry in self.service.get("tmpfs", ()):
            target, _, options = entry.partition(":")
            chosen = dict(option.split("=", 1) for option in options.split(",") if option)
            size = chosen.get("size", "0k")
            mounts.append(
                Mount(target=target, size_bytes=int(size[:-1]) * _UNITS[size[-1]], mode=chosen.get("mode", "1777"))
            )
        return mounts

    def _volumes(self) -> list[Mount]:
        mounts = []
        for entry in self.service.get("volumes", ()):
            source, target, *options = entry.split(":")
            if source.startswith("./"):
                mounts.append(Mount(target=target, source=ROOT / source, writable=options != ["ro"]))
            else:
                mounts.append(Mount(target=target, source=self._volume(source), writable=options != ["ro"]))
        return mounts

    def _volume(self, name: str) -> Path:
        """A volume's folder; a new one belongs to the user, as the image's folder at that place does."""
        folder = self.project.volumes / name
        if not folder.exists():
            folder.mkdir(parents=True)
            user, _, group = self._user().partition(":")
            os.chown(folder, int(user), int(group or user))
        return folder

    def _secrets(self) -> list[Mount]:
        return [
            Mount(target=path, source=self.project.secrets / name) for name, path in secrets_of(self.service).items()
        ]

    def _hosts_file(self) -> Mount:
        file = self.project.servers.folder / f"hosts-{self.name}"
        file.write_text(self.hosts, encoding="utf-8")
        return Mount(target="/etc/hosts", source=file)


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))
