"""The pods of an overlay, played with real servers: each gets the settings, Secrets and arguments that it would have.

PostgreSQL has the roles that the Cluster names; before it stands a real PgBouncer with the Pooler's parameters, beside
it a cluster of Valkey with the ValkeyCluster's configuration, and the queue's Valkey with its ConfigMap. The Job of the
migrations runs to its end; then web and workers have to answer their probes, and to leave in order.
"""

import http.client
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import psycopg
import redis
from psycopg import sql

from deploy.checks import debian
from deploy.checks.failures import CheckFailed
from deploy.checks.kubernetes_links import Secrets
from deploy.checks.kubernetes_manifests import Document, Environment, Pod
from deploy.checks.kubernetes_settings import lay_out
from tests.support.valkey_cluster import PASSWORD, ValkeyCluster, valkey_cluster
from zenzefi.devstack.binaries import find_valkey
from zenzefi.devstack.errors import DevStackError
from zenzefi.devstack.ports import LOOPBACK, find_free_port
from zenzefi.devstack.postgres import EmbeddedPostgres
from zenzefi.devstack.process import ChildProcess, Command

_START_TIMEOUT_S: Final = 60.0
_JOB_TIMEOUT_S: Final = 60.0
_LEAVE_TIMEOUT_S: Final = 60.0  # idle pods have nothing to drain
_PROBE_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.02

Secret = Mapping[str, bytes]


def play_pods(environment: Environment, secrets: Secrets) -> None:
    """Raise CheckFailed when the product does not come up, or does not leave, as the manifests have it."""
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zenzefi-pods-")))
            folder.chmod(0o755)  # root's PostgreSQL and PgBouncer run as another user
            _Stage(environment, secrets, folder, stack).play()
    except (DevStackError, psycopg.Error, redis.RedisError) as error:
        raise CheckFailed(f"The pods of {environment.name}: {error}") from error


class _Stage:
    """The servers, and the pods on it."""

    def __init__(self, environment: Environment, secrets: Secrets, folder: Path, stack: ExitStack) -> None:
        self._environment = environment
        self._secrets = secrets
        self._folder = folder
        self._stack = stack
        self._addresses: dict[str, str] = {}
        self._namespace = environment.get("Deployment", "web").namespace

    def play(self) -> None:
        """Run everything in its order."""
        self._start_databases()
        self._start_upstream()
        pods = [pod for manifest, pod in self._environment.pods if pod.namespace == self._namespace]
        jobs = [pod for pod in pods if pod.spec.get("restartPolicy") == "Never"]
        for job in jobs:
            self._command(job, ports={}).run(timeout_s=_JOB_TIMEOUT_S)
        running = [self._start(pod) for pod in pods if pod not in jobs]
        for pod, child, ports in running:
            _wait_for_probes(pod, child, ports)
        _register({pod.name: ports for pod, _, ports in running}["web"]["public"])
        _stop([child for _, child, _ in running])
        print(f"  {', '.join(job.name for job in jobs)} ran, and {', '.join(pod.name for pod, _, _ in running)} served")

    def _start_databases(self) -> None:
        cluster = self._environment.get("Cluster", "postgres")
        postgres = EmbeddedPostgres(self._folder / "postgres", durable=False)
        self._stack.callback(postgres.stop)
        postgres.start()
        passwords = _make_roles(postgres, cluster.spec, self._of_data)
        pooler_port = self._start_pgbouncer(postgres, passwords)
        valkey = self._stack.enter_context(_valkey(self._environment, self._of_data, self._folder / "valkey"))
        self._addresses = {
            "POSTGRES_SERVER": LOOPBACK,
            "POSTGRES_PORT": str(pooler_port),
            "POSTGRES_DIRECT_SERVER": LOOPBACK,
            "POSTGRES_DIRECT_PORT": str(postgres.port),
            "REDIS_HOST": LOOPBACK,
            "REDIS_PORT": str(valkey.nodes[0].port),
            "QUEUE_REDIS_HOST": LOOPBACK,
            "QUEUE_REDIS_PORT": str(self._start_queue()),
            "HOST": LOOPBACK,
            "INTERNAL_HOST": LOOPBACK,
            "REDIS_DEADLINE": "2",  # a machine that is busy with other checks must not pass for a Valkey that is away
        }

    def _of_data(self, name: str) -> Secret:
        """A Secret of the databases' namespace."""
        return self._secrets[self._environment.get("Cluster", "postgres").namespace, name]

    def _start_pgbouncer(self, postgres: EmbeddedPostgres, passwords: Mapping[str, str]) -> int:
        folder = self._folder / "pgbouncer"
        folder.mkdir(mode=0o755)
        spec = self._environment.get("Pooler", "postgres-pooler").spec["pgbouncer"]
        users, config, port = folder / "users.txt", folder / "pgbouncer.ini", find_free_port()
        users.write_text("".join(f'"{name}" "{word}"\n' for name, word in passwords.items()), encoding="utf-8")
        options = {
            "listen_addr": LOOPBACK,
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": users,
            "pool_mode": spec["poolMode"],
            **spec["parameters"],
            **({"user": "nobody"} if os.geteuid() == 0 else {}),  # it refuses to run as root
        }
        lines = [
            f"[databases]\n* = host={postgres.host} port={postgres.port}\n[pgbouncer]",
            *(f"{name} = {value}" for name, value in options.items()),
        ]
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        program = debian.ensure("pgbouncer", binary="pgbouncer")
        child = self._run("pgbouncer", [program, config], debian.environment())
        child.wait_until(lambda: _accepts(port), timeout_s=_START_TIMEOUT_S)
        return port

    def _start_queue(self) -> int:
        """The queue's Valkey by its own configuration, whose paths lead below our folder."""
        ((pod, container),) = [
            (pod, pod.containers[0]) for _, pod in self._environment.pods if pod.name == "valkey-queue"
        ]
        root, port = self._folder / "valkey-queue", find_free_port()
        lay_out(self._environment, pod, container, self._secrets, root)
        _, path = container["args"]
        config = root / path.lstrip("/")
        text = config.read_text(encoding="utf-8")
        for mount in container["volumeMounts"]:
            text = text.replace(mount["mountPath"], f"{root}{mount['mountPath']}")
        config = self._folder / "valkey-queue.conf"
        config.write_text(text, encoding="utf-8")
        command: list[str | Path] = [find_valkey(), config, "--port", str(port), "--bind", LOOPBACK]
        child = self._run("valkey-queue", command, {})
        child.wait_until(lambda: _accepts(port), timeout_s=_START_TIMEOUT_S)
        return port

    def _start_upstream(self) -> None:
        port = find_free_port()
        command = [sys.executable, "-m", "zenzefi.devstack.upstream", "--port", str(port)]
        self._run("upstream", command, {}).wait_until(lambda: _accepts(port), timeout_s=_START_TIMEOUT_S)
        self._addresses["ZENZEFI_TARGET_URL"] = f"http://{LOOPBACK}:{port}"

    def _start(self, pod: Pod) -> tuple[Pod, ChildProcess, dict[str, int]]:
        ports = {port["name"]: find_free_port() for port in pod.containers[0]["ports"]}
        child = self._command(pod, ports=ports)
        child.start()
        self._stack.callback(child.stop, timeout_s=3.0)
        return pod, child, ports

    def _command(self, pod: Pod, *, ports: Mapping[str, int]) -> ChildProcess:
        container = pod.containers[0]
        variables = lay_out(self._environment, pod, container, self._secrets, self._folder / pod.name)
        internal = "INTERNAL_PORT" if "public" in ports else "WORKER_METRICS_PORT"
        chosen = {{"public": "PORT", "internal": internal}[name]: str(port) for name, port in ports.items()}
        arguments = [sys.executable, "-m", "zenzefi", *container["args"]]
        return self._child(pod.name, arguments, {**variables, **self._addresses, **chosen})

    def _run(self, name: str, arguments: Sequence[str | Path], variables: Mapping[str, str]) -> ChildProcess:
        child = self._child(name, arguments, variables)
        child.start()
        self._stack.callback(child.stop, timeout_s=3.0)
        return child

    def _child(self, name: str, arguments: Sequence[str | Path], variables: Mapping[str, str]) -> ChildProcess:
        return ChildProcess(
            Command(
                name=name,
                arguments=arguments,
                log_file=self._folder / f"{name}.log",
                environment={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", **variables},
                working_directory=debian.ROOT,
            )
        )


def _make_roles(postgres: EmbeddedPostgres, spec: Document, secret: Callable[[str], Secret]) -> dict[str, str]:
    """What CloudNativePG makes of a Cluster's roles and database; returns the passwords by login."""
    roles: list[Document] = spec["managed"]["roles"]
    passwords: dict[str, str] = {}
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        for role in roles:
            name = role["name"]
            login, createdb = ("LOGIN" if role.get("login") else ""), ("CREATEDB" if role.get("createdb") else "")
            query = sql.SQL("CREATE ROLE {} {} {}")
            connection.execute(query.format(sql.Identifier(name), sql.SQL(login), sql.SQL(createdb)))
            if "passwordSecret" in role:
                made = secret(role["passwordSecret"]["name"])
                if made["username"].decode() != name:
                    raise CheckFailed(f"Secret {role['passwordSecret']['name']} is not the login of {name}.")
                passwords[name] = made["password"].decode()
                query = sql.SQL("ALTER ROLE {} PASSWORD {}")
                connection.execute(query.format(sql.Identifier(name), sql.Literal(passwords[name])))
        for role in roles:
            for group in role.get("inRoles", ()):
                query = sql.SQL("GRANT {} TO {}")
                connection.execute(query.format(sql.Identifier(group), sql.Identifier(role["name"])))
        initdb = spec["bootstrap"]["initdb"]
        query = sql.SQL("CREATE DATABASE {} OWNER {}")
        connection.execute(query.format(sql.Identifier(initdb["database"]), sql.Identifier(initdb["owner"])))
    return passwords


@contextmanager
def _valkey(environment: Environment, secret: Callable[[str], Secret], folder: Path) -> Iterator[ValkeyCluster]:
    """A cluster with the configuration and the password that the operator would give it."""
    spec = environment.get("ValkeyCluster", "valkey").spec
    ((user,),) = (spec["users"],)
    reference = user["passwordSecret"]
    (password,) = (secret(reference["name"])[key].decode() for key in reference["keys"])
    with valkey_cluster(folder) as cluster:
        for node in cluster.nodes:
            with redis.Redis(host=node.host, port=node.port, password=PASSWORD) as client:
                for name, value in spec["config"].items():
                    client.config_set(name, value)
                rules = user["permissions"].split()
                client.execute_command("ACL", "SETUSER", user["name"], "on", "resetpass", f">{password}", *rules)
        yield cluster


def _wait_for_probes(pod: Pod, child: ChildProcess, ports: Mapping[str, int]) -> None:
    """The probes in Kubernetes' order; raises DevStackError when one does not come to succeed."""
    (container,) = pod.containers
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        action = container[probe]["httpGet"]
        child.wait_until(partial(_succeeds, ports[action["port"]], action["path"]), timeout_s=_START_TIMEOUT_S)


def _stop(children: Sequence[ChildProcess]) -> None:
    """One SIGTERM for each, as the kubelet sends; raises CheckFailed when one does not end well."""
    for child in children:
        child.request_stop()
    deadline = time.monotonic() + _LEAVE_TIMEOUT_S
    for child in children:
        while child.returncode is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if child.returncode != 0:
            raise CheckFailed(f"It was asked to leave: {child.obituary()}")


def _succeeds(port: int, path: str) -> bool:
    """Whether an answer passes for success with the kubelet."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _accepts(port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.connect()
    except OSError:
        return False
    finally:
        connection.close()
    return True


def _register(port: int) -> None:
    """Somebody registers: by the limits in Valkey's cluster, and in PostgreSQL through PgBouncer."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_START_TIMEOUT_S)
    try:
        body = '{"email": "ada@example.com", "username": "ada", "password": "a long walk at night"}'
        connection.request("POST", "/api/v1/auth/register", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != http.HTTPStatus.CREATED:
            raise CheckFailed(f"web answered {response.status} to a registration: {response.read(500).decode()}")
    finally:
        connection.close()
