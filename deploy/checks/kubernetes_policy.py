"""What every pod of deploy/k8s has to be: restricted, probed, bounded, replaced without a gap, and pinned."""

import re
from collections.abc import Iterator
from typing import Any, Final

from deploy.checks.kubernetes_manifests import Document, Environment, Manifest, Pod

_DIGEST: Final = re.compile(r"[a-z0-9.-]+(:\d+)?/[a-z0-9._/-]+@sha256:[0-9a-f]{64}")
_VERSION: Final = re.compile(r"[a-z0-9.-]+/[a-z0-9._/-]+:\d+\.\d+\.\d+[a-z0-9.-]*")
_PROBES: Final = ("startupProbe", "livenessProbe", "readinessProbe")
# The supervisor kills a process that hangs 5 s after its drain's end; a worker needs up to 10 s to take leave.
_LEAVE_S: Final = 10
_IMAGE_USER: Final = 10001  # as in the Dockerfile


def find_bad_pods(environment: Environment) -> Iterator[str]:
    """Whatever is wrong with a pod."""
    for manifest, pod in environment.pods:
        of_product = pod.namespace == environment.get("Deployment", "web").namespace
        findings = [*_pod(pod), *_rollout(manifest)]
        for container in pod.containers:
            findings += [*_container(container), *_image(container, of_product=of_product)]
            if manifest.kind != "Job":
                findings += [f"{probe} is missing" for probe in _PROBES if probe not in container]
        if of_product:
            findings += [*_product_pod(pod), *_leaving(manifest, pod)]
        yield from (f"{manifest.where}: {finding}" for finding in findings)


def _pod(pod: Pod) -> Iterator[str]:
    """The restricted profile's demands of a pod, and no token. https://kubernetes.io/docs/concepts/security/"""
    context: Document = pod.spec.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield "it must run as a user by number that is not root"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "seccompProfile must be RuntimeDefault"
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "it must not have a token for Kubernetes"
    if pod.spec.get("enableServiceLinks") is not False:
        yield "enableServiceLinks must be off: a Service's variables may pass for settings"
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(name):
            yield f"{name} is forbidden"
    for volume in pod.spec.get("volumes", ()):
        if not volume.keys() & {"projected", "emptyDir", "configMap", "secret", "persistentVolumeClaim"}:
            yield f"volume {volume['name']} is of a forbidden kind"
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"volume {volume['name']} has no sizeLimit"


def _container(container: Document) -> Iterator[str]:
    context: Document = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation must be false"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem must be true"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "all capabilities must be dropped, and none added"
    if context.get("privileged") or context.get("runAsUser") == 0:
        yield "it must not be privileged"
    resources: Document = container.get("resources", {})
    for kind, name in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
        if name not in resources.get(kind, {}):
            yield f"resources.{kind}.{name} is missing"
    if "hostPort" in str(container.get("ports", "")):
        yield "hostPort is forbidden"
    for variable in container.get("env", ()):
        if re.search(r"(PASSWORD|SECRET|_KEY|IDENTITY)", variable["name"]) and not variable["name"].endswith("_FILE"):
            yield f"{variable['name']} is a secret; it has to come from a file"


def _image(container: Document, *, of_product: bool) -> Iterator[str]:
    """Ours by the digest of the build; others at least by a whole version."""
    image = str(container["image"])
    if not (_DIGEST.fullmatch(image) or (not of_product and _VERSION.fullmatch(image))):
        yield f"image {image} is not pinned"


def _product_pod(pod: Pod) -> Iterator[str]:
    context: Document = pod.spec["securityContext"]
    if {context.get(name) for name in ("runAsUser", "runAsGroup", "fsGroup")} != {_IMAGE_USER}:
        yield f"user and groups must be {_IMAGE_USER}, as in the image"
    if pod.spec.get("serviceAccountName") in (None, "default"):
        yield "it must have a service account of its own"
    for volume in pod.spec.get("volumes", ()):
        if "projected" in volume and volume["projected"].get("defaultMode") != 0o440:
            yield f"volume {volume['name']}: only the pod's group may read it (0440)"


def _rollout(manifest: Manifest) -> Iterator[str]:
    if manifest.kind == "Deployment":
        strategy: dict[str, Any] = manifest.spec.get("strategy", {})
        if strategy.get("rollingUpdate", {}).get("maxUnavailable") != 0:
            yield "a rollout must not take any pod away before another is ready"


def _leaving(manifest: Manifest, pod: Pod) -> Iterator[str]:
    """SIGKILL comes after preStop, the drain and the leave-taking."""
    if manifest.kind == "Job":
        return
    for container in pod.spec["containers"]:
        drain_s = next((float(one["value"]) for one in container["env"] if one["name"] == "DRAIN_TIMEOUT"), None)
        if drain_s is None:
            yield "DRAIN_TIMEOUT is missing"
            continue
        pause_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if "public" in {port["name"] for port in container["ports"]} and not pause_s:
            yield "preStop is missing: requests would come after nothing is accepted any more"
        if pod.spec.get("terminationGracePeriodSeconds", 30) < pause_s + drain_s + _LEAVE_S:
            yield f"terminationGracePeriodSeconds is below preStop + DRAIN_TIMEOUT + {_LEAVE_S} s"
