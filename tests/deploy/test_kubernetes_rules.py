"""The checks of deploy/k8s see what is wrong: who may reach whom, and what a pod must not be."""

from collections.abc import Callable
from typing import Any

import pytest

from deploy.checks.kubernetes_manifests import Environment, Manifest
from deploy.checks.kubernetes_network import Place, open_ports, selects
from deploy.checks.kubernetes_policy import find_bad_pods

WEB = Place(name="web", namespace="app", labels={"name": "web"}, ports={"public": 8000})
DATABASE = Place(name="database", namespace="data", labels={"name": "database"})
STRANGER = Place(name="stranger", namespace="elsewhere", labels={"name": "web"})
OUTSIDE = Place(name="outside", address="198.51.100.7")
PORTS = (443, 5432, 8000)


def _policy(namespace: str, spec: dict[str, Any]) -> Manifest:
    document = {"kind": "NetworkPolicy", "metadata": {"name": "policy", "namespace": namespace}, "spec": spec}
    return Manifest(source="test", document=document)


def _egress(*rules: dict[str, Any]) -> Manifest:
    return _policy("app", {"podSelector": {}, "policyTypes": ["Egress"], "egress": list(rules)})


def _ingress(*rules: dict[str, Any]) -> Manifest:
    return _policy("app", {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": list(rules)})


TO_DATABASE = {
    "to": [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "data"}},
            "podSelector": {"matchLabels": {"name": "database"}},
        }
    ],
    "ports": [{"port": 5432}],
}
TO_INTERNET = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}]}


@pytest.mark.parametrize(
    ("policies", "direction", "at", "other", "found"),
    [
        ([], "Egress", WEB, DATABASE, None),
        ([_egress()], "Egress", WEB, DATABASE, set()),
        ([_egress()], "Ingress", WEB, DATABASE, None),
        ([_egress(TO_DATABASE)], "Egress", WEB, DATABASE, {5432}),
        ([_egress(), _egress(TO_DATABASE)], "Egress", WEB, DATABASE, {5432}),
        ([_egress(TO_DATABASE)], "Egress", WEB, OUTSIDE, set()),
        ([_egress(TO_DATABASE)], "Egress", STRANGER, DATABASE, None),
        ([_egress({})], "Egress", WEB, DATABASE, set(PORTS)),
        ([_egress(TO_INTERNET)], "Egress", WEB, OUTSIDE, set(PORTS)),
        ([_egress(TO_INTERNET)], "Egress", WEB, Place(name="inside", address="10.1.2.3"), set()),
        ([_egress(TO_INTERNET)], "Egress", WEB, DATABASE, set()),
        ([_ingress({"ports": [{"port": "public"}]})], "Ingress", WEB, STRANGER, {8000}),
        ([_ingress({"from": [{"podSelector": {}}]})], "Ingress", WEB, STRANGER, set()),
        ([_ingress({"from": [{"namespaceSelector": {}}]})], "Ingress", WEB, STRANGER, set(PORTS)),
    ],
)
def test_policies_let_through_what_kubernetes_would(
    policies: list[Manifest], direction: str, at: Place, other: Place, found: set[int] | None
) -> None:
    assert open_ports(policies, direction, at, other, ports=PORTS) == found


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        (None, False),
        ({}, True),
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "2"}}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}, True),
        ({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}, False),
    ],
)
def test_a_selector_matches_as_in_kubernetes(selector: dict[str, Any] | None, matches: bool) -> None:
    assert selects(selector, {"a": "1"}) is matches


def _deployment() -> dict[str, Any]:
    probe = {"httpGet": {"path": "/livez", "port": "public"}}
    container = {
        "name": "web",
        "image": f"registry.example/web@sha256:{'0' * 64}",
        "ports": [{"name": "public", "containerPort": 8000}],
        "env": [{"name": "DRAIN_TIMEOUT", "value": "30"}],
        "startupProbe": probe,
        "livenessProbe": probe,
        "readinessProbe": probe,
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    user = {"runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001, "runAsNonRoot": True}
    pod = {
        "serviceAccountName": "zenzefi",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 45,
        "securityContext": {**user, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return {
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "zenzefi"},
        "spec": {
            "strategy": {"rollingUpdate": {"maxUnavailable": 0}},
            "template": {"metadata": {"labels": {}}, "spec": pod},
        },
    }


def _findings(document: dict[str, Any]) -> list[str]:
    return list(find_bad_pods(Environment(name="test", manifests=[Manifest(source="test", document=document)])))


def test_a_pod_without_a_fault_passes() -> None:
    assert _findings(_deployment()) == []


@pytest.mark.parametrize(
    ("spoil", "finding"),
    [
        (lambda pod, _: pod["securityContext"].update(runAsUser=0), "not root"),
        (lambda pod, _: pod["securityContext"].pop("seccompProfile"), "seccompProfile"),
        (lambda pod, _: pod.pop("automountServiceAccountToken"), "token"),
        (lambda pod, _: pod.pop("enableServiceLinks"), "enableServiceLinks"),
        (lambda pod, _: pod.update(hostNetwork=True), "hostNetwork"),
        (lambda pod, _: pod.update(volumes=[{"name": "host", "hostPath": {"path": "/"}}]), "forbidden kind"),
        (lambda pod, _: pod.update(volumes=[{"name": "tmp", "emptyDir": {}}]), "sizeLimit"),
        (lambda pod, _: pod.update(terminationGracePeriodSeconds=44), "terminationGracePeriodSeconds"),
        (lambda _, web: web["securityContext"].pop("allowPrivilegeEscalation"), "allowPrivilegeEscalation"),
        (lambda _, web: web["securityContext"].update(readOnlyRootFilesystem=False), "readOnlyRootFilesystem"),
        (lambda _, web: web["securityContext"]["capabilities"].update(add=["NET_RAW"]), "capabilities"),
        (lambda _, web: web["resources"].pop("limits"), "limits.memory"),
        (lambda _, web: web.pop("readinessProbe"), "readinessProbe"),
        (lambda _, web: web.pop("lifecycle"), "preStop"),
        (lambda _, web: web.update(image="registry.example/web:1.2.3"), "not pinned"),
        (lambda _, web: web["env"].append({"name": "SECRET_KEY", "value": "x"}), "from a file"),
    ],
)
def test_a_pod_with_a_fault_is_told_of(spoil: Callable[[dict[str, Any], dict[str, Any]], object], finding: str) -> None:
    document = _deployment()
    pod = document["spec"]["template"]["spec"]
    spoil(pod, pod["containers"][0])
    assert any(finding in one for one in _findings(document))
