"""Whether what an object of deploy/k8s names is there: pods, ports, Secrets, ConfigMaps, routes, databases."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from deploy.checks.kubernetes_manifests import Document, Environment, Manifest, Pod
from deploy.checks.kubernetes_network import selects

Secrets = Mapping[tuple[str, str], Mapping[str, bytes]]

# What no schema at hand knows, with the fields that are used of it: a misspelt one would be dropped without a word.
CUSTOM: Final[Mapping[tuple[str, str], frozenset[str]]] = {
    ("monitoring.coreos.com/v1", "PodMonitor"): frozenset({"jobLabel", "selector", "podMetricsEndpoints"}),
    ("gateway.networking.k8s.io/v1", "Gateway"): frozenset({"gatewayClassName", "listeners"}),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): frozenset({"parentRefs", "rules"}),
    ("gateway.envoyproxy.io/v1alpha1", "ClientTrafficPolicy"): frozenset(
        {"targetRefs", "path", "headers", "tls", "timeout"}
    ),
    ("gateway.envoyproxy.io/v1alpha1", "BackendTrafficPolicy"): frozenset(
        {"targetRefs", "timeout", "circuitBreaker", "retry"}
    ),
    ("postgresql.cnpg.io/v1", "Cluster"): frozenset(
        {
            "imageName",
            "instances",
            "bootstrap",
            "managed",
            "postgresql",
            "storage",
            "resources",
            "affinity",
        }
    ),
    ("postgresql.cnpg.io/v1", "Pooler"): frozenset({"cluster", "instances", "type", "pgbouncer"}),
    ("valkey.io/v1alpha1", "ValkeyCluster"): frozenset(
        {"shards", "replicas", "config", "users", "resources", "containers", "exporter"}
    ),
}
# A request that a pod may have seen must not be sent again: it may have moved money.
_SAFE_RETRIES: Final = {"connect-failure", "refused-stream", "reset-before-request"}


def find_loose_ends(environment: Environment, secrets: Secrets) -> Iterator[str]:
    """Whatever is named and is not there."""
    for check in (_namespaces, _selectors, _scaling, _ports, _custom, _routes, _gateway_policies):
        yield from check(environment)
    yield from _volumes(environment, secrets)
    yield from _databases(environment, secrets)


def _namespaces(environment: Environment) -> Iterator[str]:
    """Everything has a namespace, and the namespace is there; else it ends up in whichever kubectl is set to."""
    names = {one.name for one in environment.of("Namespace")}
    for namespace in environment.of("Namespace"):
        if namespace.labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{namespace.where}: it lets in pods that are not restricted"
    for manifest in environment.of("Secret"):
        yield f"{manifest.where}: a secret has no place among the manifests"
    for manifest in environment.manifests:
        if manifest.kind != "Namespace" and manifest.namespace not in names:
            yield f"{manifest.where}: there is no namespace {manifest.namespace!r}"


def _selectors(environment: Environment) -> Iterator[str]:
    """Everything that looks for pods finds some, in its own namespace."""
    # Pods that operators make; what they are called is theirs to say.
    theirs = {"valkey": "valkey.io/cluster"}
    for manifest in environment.of("Service", "PodDisruptionBudget", "PodMonitor", "Deployment", "StatefulSet"):
        selector: Document = manifest.spec["selector"]
        if manifest.kind == "Service":
            selector = {"matchLabels": selector}
        if theirs.get(manifest.name) in selector.get("matchLabels", {}):
            continue
        if not list(_selected(environment, manifest, selector)):
            yield f"{manifest.where}: its selector matches no pod"
    for manifest, pod in environment.pods:
        for constraint in pod.spec.get("topologySpreadConstraints", ()):
            if not selects(constraint.get("labelSelector"), pod.labels):
                yield f"{manifest.where}: a topologySpreadConstraint does not count its own pods"


def _scaling(environment: Environment) -> Iterator[str]:
    """The autoscaler's Deployment is there, and leaves it the say."""
    for manifest in environment.of("HorizontalPodAutoscaler"):
        target = manifest.spec["scaleTargetRef"]
        scaled = environment.find(target["kind"], target["name"], namespace=manifest.namespace)
        if scaled is None:
            yield f"{manifest.where}: there is no {target['kind']} {target['name']}"
        elif "replicas" in scaled.spec:
            yield f"{scaled.where}: each apply would undo what the autoscaler did; leave replicas out"


def _selected(environment: Environment, manifest: Manifest, selector: Document) -> Iterator[Pod]:
    return (pod for _, pod in environment.pods if pod.namespace == manifest.namespace and selects(selector, pod.labels))


def _ports(environment: Environment) -> Iterator[str]:
    """Every port that is named is one of every pod that it is named for."""
    for manifest, pod in environment.pods:
        for container in pod.containers:
            names = {port["name"] for port in container.get("ports", ())}
            for probe in (value for key, value in container.items() if key.endswith("Probe")):
                (action,) = (probe[kind] for kind in ("httpGet", "tcpSocket") if kind in probe)
                if action["port"] not in names:
                    yield f"{manifest.where}: a probe asks at port {action['port']}, which {container['name']} has not"
    for manifest in environment.of("Service", "PodMonitor"):
        selector = manifest.spec["selector"]
        if manifest.kind == "Service":
            selector = {"matchLabels": selector}
            wanted = {port.get("targetPort", port["port"]) for port in manifest.spec["ports"]}
        else:
            wanted = {endpoint["port"] for endpoint in manifest.spec["podMetricsEndpoints"]}
        for pod in _selected(environment, manifest, selector):
            missing = wanted - _port_words(pod)
            if missing:
                yield f"{manifest.where}: {pod.name} has no port {missing}"


def _port_words(pod: Pod) -> set[str | int]:
    ports = [port for container in pod.containers for port in container.get("ports", ())]
    return {port["name"] for port in ports} | {port["containerPort"] for port in ports}


def _volumes(environment: Environment, secrets: Secrets) -> Iterator[str]:
    """Every mount has a volume, and every volume its Secrets and ConfigMaps with their keys."""
    configs = {(one.namespace, one.name): one.document["data"] for one in environment.of("ConfigMap")}
    for manifest, pod in environment.pods:
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", ())}
        volumes |= {claim["metadata"]["name"]: {} for claim in manifest.spec.get("volumeClaimTemplates", ())}
        for container in pod.containers:
            for mount in container.get("volumeMounts", ()):
                if mount["name"] not in volumes:
                    yield f"{manifest.where}: there is no volume {mount['name']}"
            for source in container.get("envFrom", ()):
                if (pod.namespace, source["configMapRef"]["name"]) not in configs:
                    yield f"{manifest.where}: there is no ConfigMap {source['configMapRef']['name']}"
        for volume in volumes.values():
            yield from (
                f"{manifest.where}: {finding}"
                for finding in _sources(volume.get("projected", {}).get("sources", ()), pod, configs, secrets)
            )


def _sources(
    sources: Sequence[Document], pod: Pod, configs: Mapping[tuple[str, str], Any], secrets: Secrets
) -> Iterator[str]:
    for source in sources:
        ((kind, reference),) = source.items()
        known: Mapping[tuple[str, str], Any] = secrets if kind == "secret" else configs
        content = known.get((pod.namespace, reference["name"]))
        if content is None:
            yield f"there is no {kind} {reference['name']}, or make-secrets.sh does not make it"
            continue
        for item in reference.get("items", ()):
            if item["key"] not in content:
                yield f"{kind} {reference['name']} has no key {item['key']}"


def _custom(environment: Environment) -> Iterator[str]:
    for manifest in environment.manifests:
        known = CUSTOM.get(manifest.type)
        if known is not None and (unknown := manifest.spec.keys() - known):
            yield f"{manifest.where}: is {', '.join(sorted(unknown))} right? Then add it to CUSTOM"


def _routes(environment: Environment) -> Iterator[str]:
    """Routes lead from a listener to a Service's port, and take all the time that a download takes."""
    gateways = environment.of("Gateway")
    listeners = {(gateway.name, listener["name"]) for gateway in gateways for listener in gateway.spec["listeners"]}
    for route in environment.of("HTTPRoute"):
        for parent in route.spec["parentRefs"]:
            if (parent["name"], parent["sectionName"]) not in listeners:
                yield f"{route.where}: there is no listener {parent['name']}/{parent['sectionName']}"
        for rule in (rule for rule in route.spec["rules"] if "backendRefs" in rule):
            if rule.get("timeouts", {}).get("request") != "0s":
                yield f"{route.where}: a request's time is limited, which cuts off long downloads"
            for backend in rule["backendRefs"]:
                service = environment.find("Service", backend["name"], namespace=route.namespace)
                if service is None or backend["port"] not in {port["port"] for port in service.spec["ports"]}:
                    yield f"{route.where}: there is no Service {backend['name']} with port {backend['port']}"


def _gateway_policies(environment: Environment) -> Iterator[str]:
    """They are for what is there, repeat nothing unsafe, and leave paths as they are."""
    for policy in environment.of("ClientTrafficPolicy", "BackendTrafficPolicy"):
        for target in policy.spec["targetRefs"]:
            if environment.find(target["kind"], target["name"], namespace=policy.namespace) is None:
                yield f"{policy.where}: there is no {target['kind']} {target['name']}"
    for policy in environment.of("BackendTrafficPolicy"):
        triggers = policy.spec.get("retry", {}).get("retryOn", {}).get("triggers")
        if triggers is None or set(triggers) - _SAFE_RETRIES:
            yield f"{policy.where}: requests that a pod may have seen are sent again"
    for policy in environment.of("ClientTrafficPolicy"):
        if policy.spec.get("path") != {"escapedSlashesAction": "KeepUnchanged", "disableMergeSlashes": True}:
            yield f"{policy.where}: paths are altered before the product sees them"


def _databases(environment: Environment, secrets: Secrets) -> Iterator[str]:
    """What the operators are told of is there, and holds what the product relies on."""
    cluster, pooler = environment.get("Cluster", "postgres"), environment.get("Pooler", "postgres-pooler")
    valkey = environment.get("ValkeyCluster", "valkey")
    if pooler.spec["cluster"]["name"] != cluster.name:
        yield f"{pooler.where}: there is no Cluster {pooler.spec['cluster']['name']}"
    logins = [*cluster.spec["managed"]["roles"], cluster.spec["bootstrap"]["initdb"]]
    named = [(role.get("passwordSecret") or role.get("secret"), ("username", "password")) for role in logins]
    named += [(user["passwordSecret"], tuple(user["passwordSecret"]["keys"])) for user in valkey.spec["users"]]
    for reference, keys in named:
        if reference and not secrets.get((cluster.namespace, reference["name"]), {}).keys() >= set(keys):
            yield f"{environment.name}: make-secrets.sh makes no Secret {reference['name']} with {', '.join(keys)}"
    config: Mapping[str, str] = valkey.spec["config"]
    if config.get("maxmemory-policy") != "noeviction" or config.get("cluster-require-full-coverage") != "no":
        yield f"{valkey.where}: it must not evict, nor stop as a whole when a part of it is lost"
