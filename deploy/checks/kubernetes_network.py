"""Who may reach whom: NetworkPolicies worked out as Kubernetes does, and compared with a table.

A connection needs the egress policies of where it comes from and the ingress policies of where it goes to. Whoever no
policy selects may do everything; whoever one selects may do what any of those that select it allows.
https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final

from deploy.checks.kubernetes_manifests import Document, Environment, Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A pod, or an address outside of the cluster."""

    name: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    address: str = ""


def selects(selector: Document | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything, none at all nothing."""
    if selector is None:
        return False
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    return all(_holds(expression, labels) for expression in selector.get("matchExpressions", ()))


def _holds(expression: Document, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case operator:
            return operator == "DoesNotExist" and value is None


def open_ports(
    policies: Sequence[Manifest],
    direction: str,
    at: Place,
    other: Place,
    *,
    ports: Sequence[int],
    protocol: str = "TCP",
) -> set[int] | None:
    """Which of the ports one end of a connection lets through; None if no policy speaks for that end."""
    concerned = [
        policy
        for policy in policies
        if policy.namespace == at.namespace
        and not at.address
        and direction in policy.spec["policyTypes"]
        and selects(policy.spec["podSelector"], at.labels)
    ]
    if not concerned:
        return None
    peers, rules, target = ("to", "egress", other) if direction == "Egress" else ("from", "ingress", at)
    return {
        port
        for port in ports
        for policy in concerned
        for rule in policy.spec.get(rules, ())
        if _is_peer(rule.get(peers), policy, other) and _is_port(rule.get("ports"), target, port, protocol)
    }


def _is_peer(peers: Sequence[Document] | None, policy: Manifest, other: Place) -> bool:
    return not peers or any(_is_this(peer, policy, other) for peer in peers)


def _is_this(peer: Document, policy: Manifest, other: Place) -> bool:
    if "ipBlock" in peer:
        if not other.address:
            return False  # pods are told by their labels: their addresses are not known beforehand
        address = ipaddress.ip_address(other.address)
        block = peer["ipBlock"]
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(part) for part in block.get("except", ())
        )
    if other.address:
        return False
    if "namespaceSelector" in peer:
        in_namespace = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
    else:
        in_namespace = other.namespace == policy.namespace
    return in_namespace and ("podSelector" not in peer or selects(peer["podSelector"], other.labels))


def _is_port(ports: Sequence[Document] | None, target: Place, port: int, protocol: str) -> bool:
    return not ports or any(
        one.get("protocol", "TCP") == protocol and one["port"] in (port, *_names(target, port)) for one in ports
    )


def _names(target: Place, port: int) -> Iterator[str]:
    return (name for name, number in target.ports.items() if number == port)


# What the product's pods and the others around them are called, in the columns and lines of the table.
_UPSTREAM: Final = Place(name="upstream", address="192.0.2.10")
_INTERNET: Final = Place(name="internet", address="198.51.100.7")
_INTERNET_6: Final = Place(name="internet", address="2001:db8::7")
_METADATA: Final = Place(name="metadata", address="169.254.169.254")
_METADATA_6: Final = Place(name="metadata", address="fd00:ec2::254")
_CLUSTER: Final = Place(name="the cluster's addresses", address="10.96.0.1")
_NEIGHBOUR: Final = Place(name="neighbour", namespace="elsewhere", labels={"app.kubernetes.io/name": "zenzefi-web"})
_DNS: Final = Place(name="dns", namespace="kube-system", labels={"k8s-app": "kube-dns"})
_ENVOY: Final = Place(
    name="envoy",
    namespace="envoy-gateway-system",
    labels={"app.kubernetes.io/name": "envoy", "app.kubernetes.io/component": "proxy"},
)
_PROMETHEUS: Final = Place(name="prometheus", namespace="monitoring", labels={"app.kubernetes.io/name": "prometheus"})

_OTHERS: Final = (_ENVOY, _PROMETHEUS, _NEIGHBOUR)

# All that is allowed, of every pair of places and every port below; whatever is not here must be refused.
_PORTS: Final = (53, 80, 443, 465, 587, 5432, 6379, 8000, 8001, 8002, 16379)
_ALLOWED: Final[Mapping[str, Mapping[str, set[int]]]] = {
    "envoy": {"web": {8000}},
    "prometheus": {"web": {8001}, "worker": {8002}, "worker-heavy": {8002}},
    "web": {
        "dns": {53},
        "pooler": {5432},
        "valkey": {6379},
        "valkey-queue": {6379},
        "upstream": {443},
        "internet": {443},
    },
    "worker": {
        "dns": {53},
        "pooler": {5432},
        "valkey": {6379},
        "valkey-queue": {6379},
        "upstream": {443},
        "internet": {443},
    },
    "worker-heavy": {
        "dns": {53},
        "pooler": {5432},
        "postgres": {5432},
        "valkey": {6379},
        "valkey-queue": {6379},
        # Its way to the object store: by policy the upstream is one more host of the internet.
        "upstream": {443},
        "internet": {443},
    },
    "migrate": {"dns": {53}, "postgres": {5432}},
}
_MAIL_PORTS: Final = {465, 587}


def compare_with_table(environment: Environment) -> Iterator[str]:
    """What of the policies is not as the table says."""
    policies = environment.of("NetworkPolicy")
    sends_mail = any(policy.name == "to-mail" for policy in policies)
    ours, databases = _product(environment), _databases(environment)
    outside = (_DNS, _UPSTREAM, _INTERNET, _INTERNET_6, _METADATA, _METADATA_6, _CLUSTER)
    pairs = (*product(ours, (*ours, *databases, *outside)), *product(_OTHERS, (*ours, *databases)))
    for source, target in pairs:
        allowed = set(_ALLOWED.get(source.name, {}).get(target.name, ()))
        if sends_mail and source.name == "worker" and target in (_INTERNET, _INTERNET_6, _UPSTREAM):
            allowed |= _MAIL_PORTS
        out = open_ports(policies, "Egress", source, target, ports=_PORTS)
        into = open_ports(policies, "Ingress", target, source, ports=_PORTS)
        # Each end by itself: where only one of them refuses, the other one's mistake would not be seen.
        ends = [end for end in (out, into) if end is not None]
        for found in ends or [set(_PORTS)]:
            if found != allowed and source != target:
                words = f"{_words(found)}, not {_words(allowed)}"
                yield f"{environment.name}: {source.name} reaches {target.name} at {words}"
    for source in ours:
        if not open_ports(policies, "Egress", source, _DNS, ports=[53], protocol="UDP"):
            yield f"{environment.name}: {source.name} cannot ask for names by UDP"


def _words(ports: set[int]) -> str:
    return ", ".join(map(str, sorted(ports))) or "no port"


def _product(environment: Environment) -> list[Place]:
    namespace = environment.get("Deployment", "web").namespace
    return [
        Place(
            name="migrate" if manifest.kind == "Job" else pod.name,
            namespace=namespace,
            labels=pod.labels,
            ports=_ports(pod.spec),
        )
        for manifest, pod in environment.pods
        if pod.namespace == namespace
    ]


def _ports(spec: Mapping[str, Any]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for one in spec["containers"] for port in one.get("ports", ())}


def _databases(environment: Environment) -> list[Place]:
    """The pods of the operators, by the labels that the operators give them."""
    cluster, pooler = environment.get("Cluster", "postgres"), environment.get("Pooler", "postgres-pooler")
    valkey, queue = environment.get("ValkeyCluster", "valkey"), environment.get("StatefulSet", "valkey-queue")
    namespace = cluster.namespace
    labels = {
        "postgres": {"cnpg.io/cluster": cluster.name, "cnpg.io/podRole": "instance"},
        # CloudNativePG gives the pooler's pods no label of the cluster.
        "pooler": {"cnpg.io/poolerName": pooler.name, "cnpg.io/podRole": "pooler"},
        "valkey": {"valkey.io/cluster": valkey.name, "app.kubernetes.io/component": "valkey-node"},
        "valkey-queue": dict(queue.spec["template"]["metadata"]["labels"]),
    }
    return [Place(name=name, namespace=namespace, labels=of_it) for name, of_it in labels.items()]
