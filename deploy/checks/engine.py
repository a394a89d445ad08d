"""A stand-in for Docker and Compose, for a machine without them: it runs real processes of the product as containers.

It understands what deploy/rollout.sh says, and nothing else. Its server keeps the containers, so that all of them end
with the check; the `docker` on the script's PATH passes its words on (ENGINE_CLIENT). What is not the product's own
(PostgreSQL, nginx, …) counts as running: the check starts for real what the product needs.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import yaml

from deploy.checks.debian import ROOT
from zenzefi.devstack.ports import LOOPBACK, find_free_port
from zenzefi.devstack.process import ChildProcess, Command

PRODUCT: Final = ("web", "worker", "worker-heavy")
HEALTH_FORMAT: Final = "{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{else}}unchecked{{end}}"
ENGINE_CLIENT: Final = """#!{python} -IS
import json, socket, sys
with socket.socket(socket.AF_UNIX) as engine:
    engine.connect({socket!r})
    engine.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")
    code, output, errors = json.load(engine.makefile())
sys.stdout.write(output)
sys.stderr.write(errors)
sys.exit(code)
"""
_HEALTH_CHECK: Final = ROOT / "deploy/docker/healthcheck.py"
_RETRIES: Final = 3  # after so many bad answers Docker calls a container unhealthy
_STOP_TIMEOUT_S: Final = 40.0
_RUN_TIMEOUT_S: Final = 60.0
_INTERPOLATION: Final = re.compile(r"\$\{(\w+)(?::?[-?]([^}]*))?\}")


class Refused(Exception):
    """What Docker would refuse, in one line."""


@dataclass(slots=True, kw_only=True)
class Container:
    """One instance of a service."""

    service: str
    number: int
    labels: Mapping[str, str]
    image: str
    child: ChildProcess | None
    environment: Mapping[str, str]
    id: str = field(default_factory=lambda: uuid4().hex * 2)
    bad_answers: int = 0

    def is_running(self) -> bool:
        """Whether its process runs; others than the product's have none and always do."""
        return self.child is None or self.child.returncode is None

    def health(self) -> str:
        """What Docker's health check would say, found by the images' own."""
        if self.child is None:
            return "running healthy"
        if not self.is_running():
            return "exited unhealthy"
        kind = "web" if self.service == "web" else "worker"
        probe = subprocess.run(  # noqa: S603  our own script
            [sys.executable, "-IS", _HEALTH_CHECK, kind],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            check=False,
        )
        if probe.returncode == 0:
            return "running healthy"
        self.bad_answers += "was answered" in probe.stderr
        return "running unhealthy" if self.bad_answers >= _RETRIES else "running starting"


class Engine:
    """The containers, and what can be done with them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._containers: list[Container] = []
        self._commands: Mapping[str, Callable[[Sequence[str]], str]] = {
            "compose": self._compose,
            "ps": self._ps,
            "pull": self._pull,
            "inspect": self._inspect,
            "logs": self._logs,
            "stop": self._stop,
            "rm": self._rm,
        }

    def serve(self) -> None:
        """Carry out one command after the other, for ever."""
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(self._folder / "engine.socket"))
            server.listen()
            while True:
                client, _ = server.accept()
                with client, client.makefile("rw") as stream:
                    try:
                        json.dump(self._answer(json.loads(stream.readline())), stream)
                        stream.flush()
                    except (BrokenPipeError, ConnectionResetError):
                        pass  # the client was killed; what it asked for is done all the same, as Docker would

    def _answer(self, arguments: Sequence[str]) -> tuple[int, str, str]:
        try:
            output = self._commands[arguments[0]](arguments[1:])
        except Refused as refusal:
            return 1, "", f"{refusal}\n"
        except (SystemExit, argparse.ArgumentError, KeyError):
            return 125, "", f"The stand-in for Docker does not know: docker {' '.join(arguments)}\n"
        self._tell_instances()
        return 0, output, ""

    def _tell_instances(self) -> None:
        """Write down what Docker's DNS would know: all that run, ready or not."""
        running = [
            {
                "id": each.id,
                "service": each.service,
                "image": each.image,
                "url": f"http://{LOOPBACK}:{each.environment['PORT']}",
            }
            for each in self._containers
            if each.is_running()
        ]
        part = self._folder / "instances.json.new"
        part.write_text(json.dumps(running), encoding="utf-8")
        part.rename(self._folder / "instances.json")

    def _host(self) -> Any:
        return json.loads((self._folder / "host.json").read_text(encoding="utf-8"))

    def _compose(self, arguments: Sequence[str]) -> str:
        parser = _parser("--ansi", "--project-name", "--project-directory")
        parser.add_argument("--file", action="append")
        parser.add_argument("command")
        parser.add_argument("rest", nargs=argparse.REMAINDER)
        asked = parser.parse_args(arguments)
        services = _read_services([Path(file) for file in asked.file])
        if asked.command == "config":
            return "\n".join(services) + "\n" if asked.rest == ["--services"] else ""
        if asked.command == "pull":
            return ""
        if asked.command == "run":
            return self._run(services, asked.rest)
        if asked.command == "exec":
            return ""
        return self._up(services, asked.rest, labels={"com.docker.compose.project": asked.project_name})

    def _pull(self, arguments: Sequence[str]) -> str:
        if arguments[-1] not in self._host()["images"]:
            raise Refused(f"manifest for {arguments[-1]} not found")
        return ""

    def _run(self, services: Mapping[str, Any], arguments: Sequence[str]) -> str:
        parser = _parser(flags=("--rm", "--no-deps", "-T"))
        parser.add_argument("service")
        parser.add_argument("words", nargs="*")
        asked = parser.parse_args(arguments)
        service = services[asked.service]
        image = self._host()["images"][service["image"]]
        completed = subprocess.run(  # noqa: S603  the product
            [sys.executable, "-m", "zenzefi", *(asked.words or service["command"])],
            cwd=image["source"],
            env=self._host()["environment"],
            capture_output=True,
            text=True,
            timeout=_RUN_TIMEOUT_S,
            check=False,
        )
        if completed.returncode != 0:
            raise Refused(completed.stdout + completed.stderr)
        return completed.stdout

    def _up(self, services: Mapping[str, Any], arguments: Sequence[str], *, labels: Mapping[str, str]) -> str:
        parser = _parser(flags=("--detach", "--no-build", "--no-deps", "--no-recreate", "--wait"))
        parser.add_argument("--scale", action="append", default=[])
        parser.add_argument("services", nargs="*")
        asked = parser.parse_args(arguments)
        if not (asked.detach and asked.no_build and asked.no_deps and asked.no_recreate):
            raise Refused("it would wait for ever, build, start others, or recreate what serves")
        scale = dict(each.split("=") for each in asked.scale)
        for name in asked.services:
            wanted = int(scale.get(name) or services[name].get("deploy", {}).get("replicas", 1))
            existing = [each for each in self._containers if each.service == name]
            for surplus in existing[wanted:]:
                self._end(surplus)
            for _ in range(wanted - len(existing)):
                number = max((each.number for each in existing), default=0) + 1
                existing.append(self._start(name, number, services[name], labels))
        return ""

    def _start(self, name: str, number: int, service: Mapping[str, Any], labels: Mapping[str, str]) -> Container:
        ports = {each: str(find_free_port()) for each in ("PORT", "INTERNAL_PORT", "WORKER_METRICS_PORT")}
        environment = {**self._host()["environment"], **ports}
        container = Container(
            service=name,
            number=number,
            labels={**labels, **service.get("labels", {}), "com.docker.compose.service": name},
            image=service.get("image", ""),
            child=None,
            environment=environment,
        )
        if name in PRODUCT:
            image = self._host()["images"][service["image"]]
            container.child = ChildProcess(
                Command(
                    name=f"{name}-{number}",
                    arguments=[sys.executable, "-m", "zenzefi", *service.get("command", image["command"])],
                    log_file=self._folder / f"{container.id}.log",
                    environment=environment,
                    working_directory=Path(image["source"]),
                )
            )
            container.child.start()
        self._containers.append(container)
        return container

    def _ps(self, arguments: Sequence[str]) -> str:
        parser = _parser(flags=("--all", "--quiet", "--no-trunc"))
        parser.add_argument("--filter", action="append")
        asked = parser.parse_args(arguments)
        wanted = dict(each.removeprefix("label=").split("=", 1) for each in asked.filter)
        wanted.pop("com.docker.compose.oneoff")  # what `run` starts is not kept
        found = [each.id for each in self._containers if wanted.items() <= each.labels.items()]
        return "".join(f"{each}\n" for each in found)

    def _inspect(self, arguments: Sequence[str]) -> str:
        if len(arguments) != 3 or arguments[:2] != ["--format", HEALTH_FORMAT]:
            raise Refused(f"unknown: inspect {arguments}")
        return f"{self._find(arguments[2]).health()}\n"

    def _logs(self, arguments: Sequence[str]) -> str:
        child = self._find(arguments[-1]).child
        return "" if child is None else child.log_text()

    def _stop(self, arguments: Sequence[str]) -> str:
        child = self._find(arguments[0]).child
        if child is not None:
            child.stop(timeout_s=_STOP_TIMEOUT_S)
        return ""

    def _rm(self, arguments: Sequence[str]) -> str:
        container = self._find(arguments[0])
        if container.is_running():
            raise Refused(f"{container.id} is running")
        self._containers.remove(container)
        return ""

    def _end(self, container: Container) -> None:
        if container.child is not None:
            container.child.stop(timeout_s=_STOP_TIMEOUT_S)
        self._containers.remove(container)

    def _find(self, identity: str) -> Container:
        for container in self._containers:
            if container.id == identity:
                return container
        raise Refused(f"No such container: {identity}")


def _parser(*options: str, flags: Sequence[str] = ()) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in options:
        parser.add_argument(option)
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    return parser


def _read_services(files: Sequence[Path]) -> dict[str, Any]:
    """The services that are not in a profile, each file laid over those before it as Compose does."""
    services: dict[str, Any] = {}
    for file in files:
        text = _INTERPOLATION.sub(_fill_in, file.read_text(encoding="utf-8"))
        for name, service in yaml.safe_load(text)["services"].items():
            known = services.setdefault(name, {})
            known.update({**service, "labels": {**known.get("labels", {}), **service.get("labels", {})}})
    return {name: service for name, service in services.items() if not service.get("profiles") or name == "migrate"}


def _fill_in(match: re.Match[str]) -> str:
    return os.environ.get(match[1]) or match[2] or ""


if __name__ == "__main__":
    Engine(Path(sys.argv[1])).serve()
