"""A machine for the units to run on: its servers, /etc/zenzefi, and the credentials that systemd would hand out."""

import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyrage

from deploy.checks import debian
from deploy.checks.failures import CheckFailed
from deploy.checks.nginx_servers import SERVER_NAME, make_certificate, nginx_environment
from deploy.checks.running import run
from deploy.checks.servers import Servers
from deploy.checks.units import PYTHON, RELEASE, Unit
from zenzefi.devstack.binaries import find_postgres
from zenzefi.devstack.errors import DevStackError
from zenzefi.devstack.ports import LOOPBACK, find_free_port
from zenzefi.devstack.postgres import EmbeddedPostgres
from zenzefi.devstack.provision import provision_database
from zenzefi.devstack.seaweedfs import EmbeddedSeaweedFS
from zenzefi.devstack.valkey import EmbeddedValkey
from zenzefi.settings import Settings

_BUCKET: Final = "zenzefi"
_FOR_BACKUPS: Final = (
    "SECRET_KEY_FILE",
    "POSTGRES_PASSWORD_FILE",
    "POSTGRES_OWNER_PASSWORD_FILE",
    "S3_ACCESS_KEY_FILE",
    "S3_SECRET_KEY_FILE",
    "BACKUP_IDENTITY_FILE",
)
_PORT: Final = re.compile(r"(?<=WORKER_METRICS_PORT=)\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where everything is: `folder` stands for /etc/zenzefi."""

    folder: Path
    stack: ExitStack
    port: int

    def environment(self, unit: Unit) -> dict[str, str]:
        """What systemd would give to a unit's processes; raises CheckFailed when a credential is missing."""
        secrets = self.folder / "secrets"
        missing = sorted(name for name in unit.credentials() if not (secrets / name).exists())
        if missing:
            raise CheckFailed(f"{unit.name} cannot start: {', '.join(missing)} is not in /etc/zenzefi/secrets.")
        own = {name: value.replace("%d", str(secrets)) for name, value in unit.environment().items()}
        programs: dict[str, str] = debian.environment()
        system = {name: value for name, value in programs.items() if name in ("PATH", "LD_LIBRARY_PATH")}
        # A file's values count more than the unit's.
        return {**system, **own, **_read_variables(self.folder / Path(unit.last("EnvironmentFile")).name)}

    def here(self, word: str) -> str:
        """A word of a unit's command with this checkout, this interpreter, and a port that is free here."""
        if word == PYTHON:
            return sys.executable
        return _PORT.sub(str(find_free_port()), word.replace(RELEASE, str(debian.ROOT)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stores:
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    s3: EmbeddedSeaweedFS

    def variables(self) -> dict[str, str]:
        """Where they are."""
        return {
            "POSTGRES_SERVER": self.postgres.host,
            "POSTGRES_PORT": str(self.postgres.port),
            "POSTGRES_OWNER_USER": "zenzefi_owner",
            "POSTGRES_BIN": str(find_postgres() / "bin"),
            "REDIS_HOST": self.valkey.host,
            "REDIS_PORT": str(self.valkey.port),
            "REDIS_DEADLINE": "2",  # a machine that is busy with other checks must not pass for a Redis that is away
            "S3_ENDPOINT_URL": self.s3.endpoint_url,
            "S3_BUCKET": _BUCKET,
        }


@contextmanager
def make_machine() -> Iterator[Machine]:
    """Start the servers, write the files; at the end everything is gone."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zenzefi-systemd-")))
        folder.chmod(0o755)  # root's PostgreSQL runs as another user
        secrets = folder / "secrets"
        run(["sh", debian.ROOT / "deploy/docker/make-secrets.sh", secrets])
        port, upstream_port = find_free_port(), find_free_port()
        upstream = ["-m", "zenzefi.devstack.upstream", "--port", str(upstream_port)]
        Servers(folder, stack).run("upstream", [debian.ROOT / ".venv/bin/python", *upstream])
        stores = _start_stores(folder, stack)
        identity = pyrage.x25519.Identity.generate()
        _write_secrets(secrets, stores, identity=str(identity))
        certificate = make_certificate(folder / "certificate.pem")
        front = nginx_environment(folder / "nginx", web=[f"{LOOPBACK}:{port}"], certificate=certificate)
        _write_variables(folder / "front.env", front)
        variables = {
            "BACKEND_URL": f"https://{SERVER_NAME}:{front['NGINX_HTTPS_LISTEN'].rpartition(':')[2]}",
            "SSL_CERT_FILE": str(certificate),
            "ZENZEFI_TARGET_URL": f"http://{LOOPBACK}:{upstream_port}",
            "TRUSTED_PROXIES": LOOPBACK,
            "PROCESSES": "2",
            "PORT": str(port),
            "INTERNAL_PORT": str(find_free_port()),
            "WORKER_METRICS_PORT": str(find_free_port()),
            "BACKUP_RECIPIENTS": str(identity.to_public()),
            "PAYMENT_PROVIDER": "stripe",
            **stores.variables(),
        }
        _write_variables(folder / "zenzefi.env", variables)
        files = {f"{path.name.upper()}_FILE": str(path) for path in secrets.iterdir()}
        # Its own file, because it is for machines without the other units; see deploy/backup/README.md.
        kept = {name: files[name] for name in _FOR_BACKUPS}
        _write_variables(folder / "backup.env", {**variables, **kept, "PAYMENT_PROVIDER": "none"})
        provision_database(stores.postgres.dsn(), Settings.from_env(variables | files))
        yield Machine(folder=folder, stack=stack, port=port)


def _start_stores(folder: Path, stack: ExitStack) -> _Stores:
    stores = _Stores(
        postgres=EmbeddedPostgres(folder / "postgres"),
        valkey=EmbeddedValkey(folder / "valkey", settings={"maxmemory": "256mb"}),
        s3=EmbeddedSeaweedFS(folder / "s3", bucket=_BUCKET),
    )
    servers = (stores.postgres, stores.valkey, stores.s3)
    try:
        for server in servers:
            stack.callback(server.stop, timeout_s=3.0)
            server.launch()
        for server in servers:
            server.wait_until_ready()
    except DevStackError as error:
        raise CheckFailed(str(error)) from error
    return stores


def _write_secrets(secrets: Path, stores: _Stores, *, identity: str) -> None:
    """Put in what the script that makes the others cannot know."""
    for name, value in {
        "redis_password": stores.valkey.password,
        "s3_access_key": stores.s3.access_key,
        "s3_secret_key": stores.s3.secret_key,
        "backup_identity": identity,
        "stripe_secret_key": "sk_live_of_the_check",
        "payment_webhook_secret": "whsec_of_the_check",
    }.items():
        (secrets / name).unlink()
        (secrets / name).write_text(value)
        (secrets / name).chmod(0o400)


def _write_variables(path: Path, variables: Mapping[str, str]) -> None:
    # As both systemd and a shell read them.
    path.write_text("".join(f"{name}='{value}'\n" for name, value in variables.items()), encoding="utf-8")


def _read_variables(path: Path) -> dict[str, str]:
    words = shlex.split(path.read_text(encoding="utf-8"))
    return dict(word.split("=", 1) for word in words)
