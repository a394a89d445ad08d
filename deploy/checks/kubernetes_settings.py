"""The settings that a container of deploy/k8s has: its variables, and the files of its Secrets laid out in a folder."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from deploy.checks.debian import ROOT
from deploy.checks.kubernetes_links import Secrets
from deploy.checks.kubernetes_manifests import Document, Environment, Pod
from zenzefi.environment import SettingsError
from zenzefi.settings import Settings

# By container port's name, the variable that the product is told it by.
_PORTS: Final = {
    ("web", "public"): "PORT",
    ("web", "internal"): "INTERNAL_PORT",
    ("worker", "internal"): "WORKER_METRICS_PORT",
}


def lay_out(environment: Environment, pod: Pod, container: Document, secrets: Secrets, root: Path) -> dict[str, str]:
    """Write what the container finds mounted below `root`, and return its variables, whose paths lead there."""
    configs = {(one.namespace, one.name): one.document["data"] for one in environment.of("ConfigMap")}
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", ())}
    variables: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        variables |= configs[pod.namespace, source["configMapRef"]["name"]]
    variables |= {one["name"]: one["value"] for one in container.get("env", ())}
    for mount in container.get("volumeMounts", ()):
        folder = root / mount["mountPath"].lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        for source in volumes.get(mount["name"], {}).get("projected", {}).get("sources", ()):
            ((kind, reference),) = source.items()
            content = (secrets if kind == "secret" else configs)[pod.namespace, reference["name"]]
            for key, name in _items(reference, content):
                value, file = content[key], folder / name
                file.unlink(missing_ok=True)
                file.write_bytes(value if isinstance(value, bytes) else value.encode())
                file.chmod(volumes[mount["name"]]["projected"]["defaultMode"])
    return {
        name: str(root / value.lstrip("/")) if name.endswith("_FILE") else value for name, value in variables.items()
    }


def _items(reference: Document, content: Mapping[str, object]) -> list[tuple[str, str]]:
    if "items" in reference:
        return [(item["key"], item["path"]) for item in reference["items"]]
    return [(key, key) for key in content]


def find_bad_settings(environment: Environment, secrets: Secrets, folder: Path) -> Iterator[str]:
    """What the product says to the settings of each of its containers, and what does not go together."""
    known = _known_names()
    namespace = environment.get("Deployment", "web").namespace
    for manifest, pod in environment.pods:
        if pod.namespace != namespace:
            continue
        for container in pod.containers:
            root = folder / environment.name / pod.name
            variables = lay_out(environment, pod, container, secrets, root)
            yield from (
                f"{manifest.where}: the product does not know {name}"
                for name in sorted(variables)
                if name.removesuffix("_FILE") not in known
            )
            try:
                settings = Settings.from_env(variables)
            except SettingsError as error:
                yield f"{manifest.where}: {error}"
                continue
            yield from (f"{manifest.where}: {finding}" for finding in _fit(environment, settings, variables))
            yield from (f"{manifest.where}: {finding}" for finding in _ports(pod, container, variables))


def _known_names() -> set[str]:
    """The variables of README.md's table, which a test compares with the code."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## Settings", 1)[1].split("\n## ", 1)[0]
    return {
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([A-Z0-9_]+)`", line.split("|")[1])
    }


def _ports(pod: Pod, container: Document, variables: Mapping[str, str]) -> Iterator[str]:
    for port in container.get("ports", ()):
        variable = _PORTS[container["name"], port["name"]]
        if variables.get(variable) != str(port["containerPort"]):
            yield f"port {port['name']} is {port['containerPort']}, and {variable} is {variables.get(variable)}"
    if container.get("ports") and {variables.get("HOST"), variables.get("INTERNAL_HOST")} != {"0.0.0.0"}:  # noqa: S104
        yield f"{pod.name} must listen on all of its addresses"


def _fit(environment: Environment, settings: Settings, variables: Mapping[str, str]) -> Iterator[str]:
    """The settings and the other objects say the same."""
    yield from _postgres_fits(environment, settings, variables)
    yield from _connections_fit(environment, settings)
    data = environment.get("Cluster", "postgres").namespace
    for host, name in ((settings.redis_host, "valkey"), (settings.queue_redis_host, "valkey-queue")):
        if host != f"{environment.get('Service', name).name}.{data}.svc":
            yield f"{host} is set, and it is called {name}.{data}.svc"
    if not settings.redis_cluster:
        yield "REDIS_CLUSTER must be true"
    autoscaler = environment.get("HorizontalPodAutoscaler", "web").spec
    if settings.rate_limit_processes != autoscaler["maxReplicas"] * settings.processes:
        yield "RATE_LIMIT_PROCESSES is not the most pods of the autoscaler times PROCESSES"
    hostnames = {listener["hostname"] for listener in environment.get("Gateway", "zenzefi").spec["listeners"]}
    if hostnames != {settings.backend_url.removeprefix("https://")}:
        yield f"BACKEND_URL is {settings.backend_url}, and the Gateway listens for {', '.join(sorted(hostnames))}"
    if not settings.trusted_proxies:
        yield "TRUSTED_PROXIES is empty: every client would have Envoy's address"


def _postgres_fits(environment: Environment, settings: Settings, variables: Mapping[str, str]) -> Iterator[str]:
    cluster, pooler = environment.get("Cluster", "postgres"), environment.get("Pooler", "postgres-pooler")
    initdb, pooled = cluster.spec["bootstrap"]["initdb"], f"{pooler.name}.{cluster.namespace}.svc"
    if (settings.postgres_db, settings.postgres_server) != (initdb["database"], pooled):
        yield f"{settings.postgres_server} is set, and it is called {pooled}, with the database {initdb['database']}"
    if "POSTGRES_OWNER_PASSWORD_FILE" in variables:
        direct = f"{cluster.name}-rw.{cluster.namespace}.svc"
        if (settings.postgres_owner_user, settings.postgres_direct_server) != (initdb["owner"], direct):
            yield f"the owner is {initdb['owner']}, and the way past PgBouncer {direct}"
    elif settings.postgres_direct_server != settings.postgres_server:
        yield "whoever is not the owner has no business past PgBouncer"
    if pooler.spec["pgbouncer"]["poolMode"] != "transaction" or settings.postgres_statement_cache != 0:
        yield "PgBouncer in transaction mode and POSTGRES_STATEMENT_CACHE=0 belong together"


def _connections_fit(environment: Environment, settings: Settings) -> Iterator[str]:
    """There are enough of them for every pod, on both sides of PgBouncer."""
    cluster, pooler = environment.get("Cluster", "postgres"), environment.get("Pooler", "postgres-pooler")
    parameters, poolers = pooler.spec["pgbouncer"]["parameters"], pooler.spec["instances"]
    web = environment.get("HorizontalPodAutoscaler", "web").spec["maxReplicas"] * settings.processes
    workers = sum(one.spec["replicas"] for one in environment.of("Deployment") if "replicas" in one.spec)
    surge = len(environment.of("Deployment"))
    clients = (web + workers + surge) * settings.postgres_pool_size
    if clients > int(parameters["max_client_conn"]) * poolers:
        yield f"all pods together may open {clients} connections, which PgBouncer does not take"
    servers = int(parameters["default_pool_size"]) * poolers
    if servers > 0.8 * int(cluster.spec["postgresql"]["parameters"]["max_connections"]):
        yield f"PgBouncer may open {servers} connections, which leaves PostgreSQL too few for others"
