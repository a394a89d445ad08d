"""What a development stack consists of, and the environment its processes get: the caller's, with what is missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zenzefi.devstack.home import Home
from zenzefi.devstack.ports import LOOPBACK, find_free_port, recall_ports
from zenzefi.devstack.postgres import EmbeddedPostgres
from zenzefi.devstack.process import wait_for_predecessor
from zenzefi.devstack.seaweedfs import EmbeddedSeaweedFS
from zenzefi.devstack.valkey import EmbeddedValkey
from zenzefi.settings import Settings

# Not their well-known ports, which a machine's own servers are likely to hold.
_INNER_PORTS = ("postgres", "valkey", "s3", "upstream")
# Whoever tries things out signs in more than five times an hour, all from one address.
_RATE_LIMIT_AUTH = "100/3600"
# A stack stops within 5 s, so its web processes cannot give open requests the 30 s that they have elsewhere.
_DRAIN_TIMEOUT_S = "1.5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which servers are embedded (None: the environment names another one), and the settings of all processes."""

    environment: Mapping[str, str]
    settings: Settings
    postgres: EmbeddedPostgres | None
    valkey: EmbeddedValkey | None
    s3: EmbeddedSeaweedFS | None
    upstream_port: int | None


def home_directory(environ: Mapping[str, str]) -> Path:
    """The folder of the stack that this environment means."""
    return Path(environ.get("ZENZEFI_HOME") or ".zenzefi")


def make_plan(home: Home, environ: Mapping[str, str]) -> Plan:
    """Decide what runs where. Reads and writes below `home`, starts nothing.

    Raises DevStackError or SettingsError; both say what to change.
    """
    _wait_for_killed_stack(home)
    environment = _Environment(environ)
    ports = recall_ports(home.ports_file, _INNER_PORTS)
    _add_web(environment, home)
    postgres = _plan_postgres(environment, home, ports["postgres"])
    valkey = _plan_valkey(environment, home, ports["valkey"])
    s3 = _plan_s3(environment, home, ports["s3"])
    upstream_port = _plan_upstream(environment, ports["upstream"])
    return Plan(
        environment=environment.values,
        settings=Settings.from_env(environment.values),
        postgres=postgres,
        valkey=valkey,
        s3=s3,
        upstream_port=upstream_port,
    )


class _Environment:
    """An environment to which variables are added; a variable may also be there as NAME_FILE."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.values = dict(environ)

    def has(self, name: str) -> bool:
        return bool(self.values.get(name) or self.values.get(f"{name}_FILE"))

    def add(self, name: str, value: str) -> None:
        """Set it unless the caller did."""
        if not self.has(name):
            self.values[name] = value

    def override(self, name: str, value: str) -> None:
        self.values.pop(f"{name}_FILE", None)
        self.values[name] = value


def _wait_for_killed_stack(home: Home) -> None:
    """Wait for the processes of a stack that was killed: until they are gone, their ports look taken by somebody."""
    for lock_file in sorted(home.run.glob("*.lock")):
        wait_for_predecessor(lock_file, owner=lock_file.stem)
    for name in ("postgres", "valkey", "s3"):
        wait_for_predecessor(home.directory / name / "lock", owner=name)


def _add_web(environment: _Environment, home: Home) -> None:
    environment.add("ENVIRONMENT", "development")
    environment.add("SECRET_KEY", home.state.secret_key)
    environment.add("DRAIN_TIMEOUT", _DRAIN_TIMEOUT_S)
    environment.add("RATE_LIMIT_AUTH", _RATE_LIMIT_AUTH)
    for name in ("PORT", "INTERNAL_PORT"):
        # 0 means a free one, which everybody here has to know.
        if environment.values.get(name) == "0":
            environment.override(name, str(find_free_port()))


def _plan_postgres(environment: _Environment, home: Home, port: int) -> EmbeddedPostgres | None:
    if environment.has("POSTGRES_SERVER"):
        return None
    environment.override("POSTGRES_SERVER", LOOPBACK)
    environment.add("POSTGRES_PORT", str(port))
    environment.add("POSTGRES_PASSWORD", home.state.app_password)
    environment.add("POSTGRES_OWNER_USER", "zenzefi_owner")
    environment.add("POSTGRES_OWNER_PASSWORD", home.state.owner_password)
    port = Settings.from_env(environment.values).postgres_port
    return EmbeddedPostgres(home.directory / "postgres", port=port, log_file=home.logs / "postgres.log")


def _plan_valkey(environment: _Environment, home: Home, port: int) -> EmbeddedValkey | None:
    if environment.has("REDIS_HOST"):
        return None
    environment.override("REDIS_HOST", LOOPBACK)
    environment.add("REDIS_PORT", str(port))
    port = Settings.from_env(environment.values).redis_port
    valkey = EmbeddedValkey(home.directory / "valkey", port=port, log_file=home.logs / "valkey.log")
    valkey.prepare()
    environment.override("REDIS_PASSWORD", valkey.password)
    return valkey


def _plan_s3(environment: _Environment, home: Home, port: int) -> EmbeddedSeaweedFS | None:
    if environment.has("S3_ENDPOINT_URL"):
        return None
    environment.add("S3_BUCKET", "zenzefi")
    bucket = Settings.from_env(environment.values).s3.bucket
    s3 = EmbeddedSeaweedFS(home.directory / "s3", port=port, bucket=bucket, log_file=home.logs / "s3.log")
    s3.prepare()
    environment.override("S3_ENDPOINT_URL", s3.endpoint_url)
    environment.override("S3_ACCESS_KEY", s3.access_key)
    environment.override("S3_SECRET_KEY", s3.secret_key)
    return s3


def _plan_upstream(environment: _Environment, port: int) -> int | None:
    """Whom the gateway stands before: UPSTREAM, the short name that is typed, else ZENZEFI_TARGET_URL, else a demo."""
    typed = environment.values.get("UPSTREAM")
    if typed:
        environment.override("ZENZEFI_TARGET_URL", typed)
    if environment.has("ZENZEFI_TARGET_URL"):
        return None
    environment.override("ZENZEFI_TARGET_URL", f"http://{LOOPBACK}:{port}")
    return port
