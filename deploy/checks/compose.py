"""docker-compose.yml: what the linters say of it, and whether it keeps the promises that its comments and ours make."""

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from deploy.checks.compose_file import (
    COMPOSE_FILE,
    Service,
    environment_of,
    example_variables,
    networks_of,
    read_compose,
    secrets_of,
)
from deploy.checks.debian import ROOT
from deploy.checks.failures import require
from deploy.checks.files import DEPLOY, PROMETHEUS, read_yaml
from deploy.checks.running import run
from deploy.checks.tools import python_tool
from zenzefi.settings import Settings

CORE: Final = ("postgres", "redis", "migrate", "web", "worker", "worker-heavy", "nginx", "certbot")
PROFILES: Final = {
    "monitoring": [
        *("prometheus", "alertmanager", "grafana", "loki", "alloy", "docker-proxy"),
        *("postgres-exporter", "redis-exporter", "node-exporter", "nginx-exporter", "blackbox-exporter"),
    ],
    "s3": ["seaweedfs"],
    "load": ["locust"],
    "tailscale": ["tailscale", "tailscale-relay"],
}
# Who shares a network with whom matters where the other one trusts: the stores, and web's port, which believes nginx.
_REACHED_BY: Final = {
    "postgres": {"migrate", "web", "worker", "worker-heavy", "redis", "postgres-exporter", "redis-exporter"},
    "redis": {"migrate", "web", "worker", "worker-heavy", "postgres", "postgres-exporter", "redis-exporter"},
    "seaweedfs": {"web", "worker-heavy"},
    "grafana": set(PROFILES["monitoring"]) - {"grafana", "docker-proxy"},
    "docker-proxy": set(),
    "certbot": {"nginx"},
}
# The one network whose members web believes about who the client is.
_FRONT: Final = {"nginx", "web"}
# Who has a way out of this machine.
_GETS_OUT: Final = {"web", "worker", "worker-heavy", "nginx", "certbot", "tailscale", "alertmanager", "grafana"} | {
    "blackbox-exporter"
}
# On every address of the machine; all else is for the machine itself.
_PUBLIC: Final = {"nginx"}
# The drain's own limit of time, in which the supervisor kills what hangs (zenzefi/server/supervisor.py).
_KILL_MARGIN_S: Final = 5


def check_compose() -> None:
    """Raise CheckFailed with what is wrong with the file."""
    run([python_tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE])
    files = [COMPOSE_FILE, ROOT / ".compose-lint.yml", ROOT / ".hadolint.yaml"]
    run([sys.executable, "-m", "yamllint", "--strict", "--config-file", DEPLOY / ".yamllint.yml", *files])
    lint = ["check", "--fail-on=low", "--strict-config", "--no-env", "--skip-suppressed", str(COMPOSE_FILE)]
    run([python_tool("compose-lint"), *lint])
    require_promises()


def require_promises() -> None:
    """Raise CheckFailed with what is against the promises."""
    variables = example_variables()
    compose = read_compose(variables)
    services: dict[str, Service] = compose["services"]
    require(_wrong_names(services), what="docker-compose.yml")
    findings = [
        *(finding for name, service in services.items() for finding in _unsafe(name, service)),
        *(finding for name, service in services.items() for finding in _unknown(name, service, services, compose)),
        *_reach(services, compose["networks"]),
        *_monitored(services),
        *_numbers(services, compose["networks"], variables),
    ]
    require(findings, what="docker-compose.yml")


def _wrong_names(services: Mapping[str, Service]) -> Iterator[str]:
    """The names that nginx, Prometheus, the rollout and the guides use."""
    wanted = {**dict.fromkeys(CORE, ""), **{name: profile for profile, names in PROFILES.items() for name in names}}
    found = {name: "".join(service.get("profiles", ())) for name, service in services.items()}
    if found != wanted:
        yield f"services and profiles: {sorted(found.items() ^ wanted.items())} are on one side only"


def _unsafe(name: str, service: Service) -> Iterator[str]:
    if service.get("cap_drop") != ["ALL"] or "no-new-privileges:true" not in service.get("security_opt", ()):
        yield f"{name} keeps rights of root"
    if service.get("read_only") is not True:
        yield f"{name} may write to its image"
    if not re.fullmatch(r"[\w./-]+:(local|v?\d+\.\d+[\w.-]*)", service["image"]):
        yield f"{name}: {service['image']} is not pinned to a release"
    if service.get("privileged") or service.get("network_mode") == "host" or service.get("pid") == "host":
        yield f"{name} is not kept apart from the machine"
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    if limits.keys() != {"cpus", "memory", "pids"}:
        yield f"{name} has no limit of {', '.join(sorted({'cpus', 'memory', 'pids'} - limits.keys()))}"
    if "max-size" not in service.get("logging", {}).get("options", {}):
        yield f"{name}'s log grows for ever"
    if not service.get("healthcheck"):
        yield f"{name} has no health check"
    for port in service.get("ports", ()):
        if name not in _PUBLIC and not str(port).startswith("127.0.0.1:"):
            yield f"{name} listens at {port} for everybody"


def _unknown(name: str, service: Service, services: Mapping[str, Service], compose: Mapping[str, Any]) -> Iterator[str]:
    """What is named and does not exist."""
    for mount in service.get("volumes", ()):
        source = mount.split(":")[0]
        if source.startswith("./") and not (ROOT / source).exists():
            yield f"{name} mounts {source}, which does not exist"
        elif source[:1] not in "./" and source not in compose["volumes"]:
            yield f"{name} mounts the volume {source}, which is not declared"
    for network in networks_of(service) - compose["networks"].keys():
        yield f"{name} is in the network {network}, which is not declared"
    secrets = secrets_of(service)
    for secret in secrets.keys() - compose["secrets"].keys():
        yield f"{name} gets the secret {secret}, which is not declared"
    for variable, value in environment_of(service, {}).items():
        path = value.removeprefix("file:")
        if path.startswith("/run/secrets/") and path not in secrets.values():
            yield f"{name}: {variable} is {value}, a secret that it does not get"
    for other, condition in service.get("depends_on", {}).items():
        check = services.get(other, {}).get("healthcheck", {})
        if condition["condition"] == "service_healthy" and check.get("disable", not check):
            yield f"{name} waits for {other}, which has no health check"


def _reach(services: Mapping[str, Service], networks: Mapping[str, Any]) -> Iterator[str]:
    members = {
        network: {name for name, service in services.items() if network in networks_of(service)} for network in networks
    }
    for name, wanted in _REACHED_BY.items():
        found = {other for inside in members.values() if name in inside for other in inside} - {name}
        if found != wanted:
            yield f"{name}: {sorted(found ^ wanted)} should not reach it, or should"
    if members["front"] != _FRONT:
        yield f"front: web would believe {sorted(members['front'] - _FRONT)} about who the client is"
    out = {
        name for network, inside in members.items() if not (networks[network] or {}).get("internal") for name in inside
    }
    if out != _GETS_OUT:
        yield f"{sorted(out ^ _GETS_OUT)} should have no way out of the machine, or should"


def _monitored(services: Mapping[str, Service]) -> Iterator[str]:
    """Prometheus reaches what it is told to look at, and Grafana and Alloy what their files name."""
    targets = [target for file in (PROMETHEUS / "targets").glob("*.yml") for target in read_yaml(file)]
    hosts = {str(address).split(":")[0] for target in targets for address in target["targets"]} - {"localhost", "https"}
    for job in read_yaml(PROMETHEUS / "prometheus.yml")["scrape_configs"]:
        hosts |= {name for found in job.get("dns_sd_configs", ()) for name in found["names"]}
    readers = {
        "prometheus": hosts,
        "grafana": _hosts_in(DEPLOY / "grafana/provisioning/datasources/prometheus.yml"),
        "alloy": _hosts_in(DEPLOY / "loki/config.alloy"),
    }
    for reader, read in readers.items():
        for host in sorted(read):
            if not networks_of(services[reader]) & networks_of(services.get(host, {})):
                yield f"{reader} does not reach {host}"


def _hosts_in(file: Any) -> set[str]:
    return set(re.findall(r"http://([a-z-]+):", file.read_text(encoding="utf-8")))


def _numbers(
    services: Mapping[str, Service], networks: Mapping[str, Any], variables: Mapping[str, str]
) -> Iterator[str]:
    """What several lines say together."""
    web = services["web"]
    environment = environment_of(web, variables)
    processes = web["deploy"]["replicas"] * int(environment["PROCESSES"])
    if int(environment["RATE_LIMIT_PROCESSES"]) != processes:
        yield f"RATE_LIMIT_PROCESSES is {environment['RATE_LIMIT_PROCESSES']}, and there are {processes}"
    settings = Settings.from_env({"SECRET_KEY": "0123456789abcdef" * 2})
    for name in ("web", "worker", "worker-heavy"):
        if int(services[name]["stop_grace_period"].removesuffix("s")) <= settings.drain_timeout_s + _KILL_MARGIN_S:
            yield f"{name} is killed before its drain ends"
    (connections,) = [
        int(word.partition("=")[2]) for word in services["postgres"]["command"] if "max_connections" in word
    ]
    # While instances are replaced there is one more; the exporter and a person need some, too.
    wanted = (processes + int(environment["PROCESSES"]) + 4) * settings.postgres_pool_size + 10
    if connections < wanted:
        yield f"PostgreSQL takes {connections} connections, and {wanted} may be wanted"
    (front,) = networks["front"]["ipam"]["config"]
    if environment["TRUSTED_PROXIES"] != front["subnet"]:
        yield "TRUSTED_PROXIES is not the network of nginx and web"
