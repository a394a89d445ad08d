"""deploy/k8s: rendered by a real kubectl, validated, held to our rules, and its pods played with real servers.

There is no API server to be had where this runs; what only one can tell (admission, scheduling) is not checked.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyrage
import yaml

from deploy.checks.failures import CheckFailed, require
from deploy.checks.files import PROMETHEUS, read_yaml
from deploy.checks.kubernetes_links import CUSTOM, find_loose_ends
from deploy.checks.kubernetes_manifests import K8S, Environment, Manifest, make_secrets, read_environment, render
from deploy.checks.kubernetes_network import compare_with_table
from deploy.checks.kubernetes_pods import play_pods
from deploy.checks.kubernetes_policy import find_bad_pods
from deploy.checks.kubernetes_settings import find_bad_settings
from deploy.checks.running import run
from deploy.checks.tools import python_tool

# The oldest that README.md of deploy/k8s names, and the newest that kubernetes-validate knows.
_VERSIONS: Final = ("1.34.0", "1.37.0")
_PAYMENT_COMPONENTS: Final[Mapping[str, Mapping[str, str]]] = {
    "payments-yookassa": {"YOOKASSA_SECRET_KEY": "yookassa-secret"},
    "payments-stripe": {"STRIPE_SECRET_KEY": "stripe-secret", "PAYMENT_WEBHOOK_SECRET": "stripe-webhook-secret"},
}


def check_kubernetes() -> None:
    """Raise CheckFailed with what is wrong with the manifests."""
    with tempfile.TemporaryDirectory(prefix="zenzefi-kubernetes-") as name:
        folder = Path(name)
        identity = folder / "backup-key.txt"
        identity.write_text(f"{pyrage.x25519.Identity.generate()}\n", encoding="utf-8")
        given = {
            "S3_ACCESS_KEY": "access",
            "S3_SECRET_KEY": "secret",
            "SMTP_PASSWORD": "smtp",
            "BACKUP_IDENTITY_FILE": str(identity),
        }
        production, staging = (read_environment(name) for name in ("production", "staging"))
        stripe = _with_stripe(production, folder)
        environments = (production, staging, stripe)
        bases = [one for name in ("base", "migration", "data") for one in render(K8S / name, source=name)]
        _validate([*bases, *(one for environment in environments for one in environment.manifests)], folder)
        _check_rules()
        findings: list[str] = []
        for environment in reversed(environments):  # production last: its Secrets are those that its pods get
            payments = "payments-stripe" if environment is stripe else "payments-yookassa"
            secrets = make_secrets(environment, {**given, **_PAYMENT_COMPONENTS[payments]})
            findings += find_bad_pods(environment)
            findings += compare_with_table(environment)
            loose_ends = list(find_loose_ends(environment, secrets))
            findings += loose_ends or find_bad_settings(environment, secrets, folder)
        require(findings, what="The manifests of deploy/k8s")
        play_pods(production, secrets)


def _with_stripe(production: Environment, folder: Path) -> Environment:
    """Production with the other provider, which no overlay has."""
    overlay = folder / "stripe"
    overlay.mkdir()
    kustomization = read_yaml(K8S / "overlays/production/kustomization.yaml")
    for part in ("resources", "components"):
        paths = (K8S / "overlays/production" / one for one in kustomization[part])
        kustomization[part] = [os.path.relpath(path, overlay.resolve()) for path in paths]
    components = kustomization["components"]
    kustomization["components"] = [one.replace("payments-yookassa", "payments-stripe") for one in components]
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    others = [one for one in production.manifests if one.source != production.name]
    return Environment(name="stripe", manifests=[*render(overlay, source="stripe"), *others])


def _validate(manifests: Sequence[Manifest], folder: Path) -> None:
    """By the schemas of Kubernetes, strictly; what those do not know stands in CUSTOM."""
    file = folder / "manifests.yaml"
    known = sorted({yaml.safe_dump(one.document) for one in manifests if one.type not in CUSTOM})
    file.write_text("---\n".join(known), encoding="utf-8")
    for version in _VERSIONS:
        said = run([python_tool("kubernetes-validate"), "--strict", "--kubernetes-version", version, file])
        passed, warned = said.count(" passed for resource "), [line for line in said.splitlines() if "WARN" in line]
        require(warned, what=f"Kubernetes {version} does not know")
        if passed != len(known):
            raise CheckFailed(f"kubernetes-validate passed {passed} of {len(known)} objects:\n{said}")


def _check_rules() -> None:
    """prometheus-rules.sh hands on every group, and none twice."""
    printed: dict[str, Any] = yaml.safe_load(run(["bash", K8S / "prometheus-rules.sh"]))
    groups = [group for path in sorted((PROMETHEUS / "rules").glob("*.yml")) for group in read_yaml(path)["groups"]]
    if printed["spec"]["groups"] != groups or printed["kind"] != "PrometheusRule":
        raise CheckFailed("prometheus-rules.sh does not print the rules of deploy/prometheus/rules.")
    names = [group["name"] for group in groups]
    require((name for name in set(names) if names.count(name) > 1), what="The operator refuses a group's second")
