"""A machine for the units to run on: its servers, /etc/zenzefi, and the credentials that systemd would hand out."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyrage

from deploy.checks import debian
from deploy.checks.failures import CheckFailed
from deploy.checks.running import run
from deploy.checks.servers import Servers
from deploy.checks.units import Unit
from zenzefi.devstack.binaries import find_postgres
from zenzefi.devstack.errors import DevStackError
from zenzefi.devstack.ports import LOOPBACK, find_free_port
from zenzefi.devstack.postgres import EmbeddedPostgres
from zenzefi.devstack.provision import provision_database
from zenzefi.devstack.seaweedfs import EmbeddedSeaweedFS
from zenzefi.devstack.valkey import EmbeddedValkey
from zenzefi.settings import Settings

_BUCKET: Final = "zenzefi"
_PORT: Final = re.compile(r"(?<=WORKER_METRICS_PORT=)\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where everything is."""

    folder: Path
    stack: ExitStack
    port: int
    env_file: Path
    secrets: Path

    def environment(self, unit: Unit) -> dict[str, str]:
        """What systemd would give to a unit's processes; raises CheckFailed when a credential is missing."""
        missing = sorted(name for name in unit.credentials() if not (self.secrets / name).exists())
        if missing:
            raise CheckFailed(f"{unit.name} cannot start: {', '.join(missing)} is not in /etc/zenzefi/secrets.")
        own = {name: value.replace("%d", str(self.secrets)) for name, value in unit.environment().items()}
        backup = {} if unit.credentials() else self._backup_variables()
        # A file's values count more than the unit's.
        return {"PATH": debian.environment()["PATH"], **own, **_read_variables(self.env_file), **backup}

    def port_in(self, word: str) -> str:
        """The word with a free port in place of the one that somebody else may have here."""
        return _PORT.sub(str(find_free_port()), word)

    def _backup_variables(self) -> dict[str, str]:
        """What /etc/zenzefi/backup.env has beyond the other file; see deploy/backup/README.md."""
        names = (
            "secret_key",
            "postgres_password",
            "postgres_owner_password",
            "s3_access_key",
            "s3_secret_key",
            "backup_identity",
        )
        return {**{f"{name.upper()}_FILE": str(self.secrets / name) for name in names}, "PAYMENT_PROVIDER": "none"}


@contextmanager
def make_machine() -> Iterator[Machine]:
    """Start the servers, write the files; at the end everything is gone."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zenzefi-systemd-")))
        folder.chmod(0o755)  # root's PostgreSQL runs as another user
        secrets = folder / "secrets"
        run(["sh", debian.ROOT / "deploy/docker/make-secrets.sh", secrets])
        upstream_port = find_free_port()
        upstream = ["-m", "zenzefi.devstack.upstream", "--port", str(upstream_port)]
        servers = Servers(folder, stack)
        servers.run("upstream", [debian.ROOT / ".venv/bin/python", *upstream])
        postgres = EmbeddedPostgres(folder / "postgres")
        valkey = EmbeddedValkey(folder / "valkey", settings={"maxmemory": "256mb"})
        s3 = EmbeddedSeaweedFS(folder / "s3", bucket=_BUCKET)
        try:
            for server in (postgres, valkey, s3):
                stack.callback(server.stop, timeout_s=3.0)
                server.launch()
            for server in (postgres, valkey, s3):
                server.wait_until_ready()
        except DevStackError as error:
            raise CheckFailed(str(error)) from error
        identity = pyrage.x25519.Identity.generate()
        for name, value in {
            "redis_password": valkey.password,
            "s3_access_key": s3.access_key,
            "s3_secret_key": s3.secret_key,
            "backup_identity": str(identity),
            "stripe_secret_key": "sk_live_of_the_check",
            "payment_webhook_secret": "whsec_of_the_check",
        }.items():
            (secrets / name).unlink()
            (secrets / name).write_text(value)
            (secrets / name).chmod(0o400)
        port, metrics_port = find_free_port(), find_free_port()
        variables = {
            "BACKEND_URL": f"http://{LOOPBACK}:{port}",
            "ZENZEFI_TARGET_URL": f"http://{LOOPBACK}:{upstream_port}",
            "TRUSTED_PROXIES": LOOPBACK,
            "PROCESSES": "2",
            "PORT": str(port),
            "INTERNAL_PORT": str(find_free_port()),
            "WORKER_METRICS_PORT": str(metrics_port),
            "POSTGRES_SERVER": postgres.host,
            "POSTGRES_PORT": str(postgres.port),
            "POSTGRES_OWNER_USER": "zenzefi_owner",
            "POSTGRES_BIN": str(find_postgres() / "bin"),
            "REDIS_HOST": valkey.host,
            "REDIS_PORT": str(valkey.port),
            "REDIS_DEADLINE": "2",  # a machine that is busy with other checks must not pass for a Redis that is away
            "S3_ENDPOINT_URL": s3.endpoint_url,
            "S3_BUCKET": _BUCKET,
            "BACKUP_RECIPIENTS": str(identity.to_public()),
            "BACKUP_COPY_S3_BUCKET": "",
            "PAYMENT_PROVIDER": "stripe",
        }
        env_file = folder / "zenzefi.env"
        env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
        passwords = {
            f"{name.upper()}_FILE": str(secrets / name) for name in ("postgres_password", "postgres_owner_password")
        }
        keys = {
            f"{name.upper()}_FILE": str(secrets / name)
            for name in ("secret_key", "stripe_secret_key", "payment_webhook_secret")
        }
        provision_database(postgres.dsn(), Settings.from_env(variables | passwords | keys))
        yield Machine(folder=folder, stack=stack, port=port, env_file=env_file, secrets=secrets)


def _read_variables(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines())
