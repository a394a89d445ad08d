"""The web instances of the product behind nginx as deploy/nginx starts it, on free ports of the loopback address."""

import datetime
import json
import os
import secrets
import signal
import ssl
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from deploy.checks import debian
from deploy.checks.failures import CheckFailed
from deploy.checks.files import DEPLOY
from deploy.checks.servers import Servers
from zenzefi.devstack.demo import DemoClient, DemoFailed
from zenzefi.devstack.plan import Plan
from zenzefi.devstack.ports import LOOPBACK, find_free_port, find_free_ports
from zenzefi.devstack.process import ChildProcess

NGINX: Final = DEPLOY / "nginx"
# A name that every machine resolves: wrk cannot be told an address beside the name.
SERVER_NAME: Final = "localhost"
_RETURN_URL_HOST: Final = LOOPBACK
_DRAIN_S: Final = 10
_STOP_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Nginx:
    """A running nginx."""

    child: ChildProcess
    https_port: int
    http_port: int
    status_url: str
    run_dir: Path
    certificate: Path

    @property
    def url(self) -> str:
        """The public address."""
        return f"https://{SERVER_NAME}:{self.https_port}"

    @property
    def log(self) -> str:
        """All that it wrote, access log and error log."""
        return self.child.log_text(limit_bytes=1 << 30)

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The access log."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def session(self, *, source: str = LOOPBACK) -> aiohttp.ClientSession:
        """A client at this address of the machine, who trusts the certificate."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        connector = aiohttp.TCPConnector(ssl=context, local_addr=(source, 0), resolver=_Loopback(), limit=0)
        return aiohttp.ClientSession(
            base_url=self.url, connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=120)
        )

    def processes(self) -> list[int]:
        """The numbers of the master and its workers."""
        return _family(self.child.pid)


class _Loopback(AbstractResolver):
    """Every name is this machine's."""

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host=LOOPBACK, port=port, family=2, proto=0, flags=0)]

    async def close(self) -> None:
        return None


def nginx_environment(
    run_dir: Path, *, web: Sequence[str], certificate: Path, variables: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The variables of deploy/nginx/README.md, with free ports; `variables` go before."""
    for package, program in (("nginx", "nginx"), ("gettext-base", "envsubst"), ("openssl", "openssl")):
        debian.ensure(package, binary=program)
    ports = {name: f"{LOOPBACK}:{find_free_port()}" for name in ("HTTP", "HTTPS", "STATUS")}
    return {
        **{f"NGINX_{name}_LISTEN": address for name, address in ports.items()},
        "SERVER_NAME": SERVER_NAME,
        "WEB_INSTANCES": " ".join(web),
        "NGINX_RUN_DIR": str(run_dir),
        "NGINX_CERTIFICATE": str(certificate),
        "NGINX_WATCH_INTERVAL": "0.2",
        "ACME_WEBROOT": str(run_dir / "acme"),
        **(variables or {}),
    }


def run_nginx(
    servers: Servers, *, web: Sequence[str], certificate: Path, variables: Mapping[str, str] | None = None
) -> Nginx:
    """Start nginx before the web instances at these addresses, by the script that the service runs."""
    name = f"nginx-{find_free_port()}"
    run_dir = servers.folder / name
    environment = nginx_environment(run_dir, web=web, certificate=certificate, variables=variables)
    status_url = f"http://{environment['NGINX_STATUS_LISTEN']}/stub_status"
    child = servers.run(name, ["/bin/sh", NGINX / "start.sh"], ready_url=status_url, environment=environment)
    return Nginx(
        child=child,
        https_port=int(environment["NGINX_HTTPS_LISTEN"].rpartition(":")[2]),
        http_port=int(environment["NGINX_HTTP_LISTEN"].rpartition(":")[2]),
        status_url=status_url,
        run_dir=run_dir,
        certificate=certificate,
    )


class WebInstance:
    """A `zenzefi serve` that can be stopped, killed and started again on its port."""

    def __init__(self, servers: Servers, plan: Plan, name: str, variables: Mapping[str, str]) -> None:
        self._servers = servers
        self._name = name
        self._port, self._internal_port = find_free_port(), find_free_port()
        self.address = f"{LOOPBACK}:{self._port}"
        self._environment = {
            **plan.environment,
            "PORT": str(self._port),
            "INTERNAL_PORT": str(self._internal_port),
            "PROCESSES": "1",
            # nginx is at the first of these addresses. A client at another one is trusted as little as any.
            "TRUSTED_PROXIES": "127.0.0.0/8",
            "DRAIN_TIMEOUT": str(_DRAIN_S),
            **variables,
        }
        self.child = self._start()

    def _start(self) -> ChildProcess:
        return self._servers.run(
            self._name,
            [sys.executable, "-m", "zenzefi", "serve"],
            ready_url=f"http://{LOOPBACK}:{self._internal_port}/readyz",
            environment=self._environment,
        )

    def processes(self) -> list[int]:
        """The numbers of the supervisor and its web process."""
        return _family(self.child.pid)

    def restart(self) -> None:
        """As a rollout does: let requests finish, and return when a new one is ready."""
        self.child.stop(timeout_s=_STOP_TIMEOUT_S)
        self.child = self._start()

    def kill(self) -> None:
        """As the kernel does when memory runs out."""
        os.kill(self.child.pid, signal.SIGKILL)
        self.child.stop()

    def start_again(self) -> None:
        """After kill()."""
        self.child = self._start()


def run_instances(
    servers: Servers, environment: Mapping[str, str], variables: Mapping[str, str]
) -> tuple[Plan, list[WebInstance]]:
    """Start the product, and two web instances of it beside its own; `variables` are for those two."""
    plan = servers.run_product(
        {
            "PORT": str(find_free_port()),
            "INTERNAL_PORT": str(find_free_port()),
            "WORKER_METRICS_PORT": str(find_free_ports(2)),
            "PROCESSES": "1",
            "REDIS_DEADLINE": "2",  # a machine that is busy with other checks must not pass for a Redis that is away
            "PAYMENT_RETURN_HOSTS": _RETURN_URL_HOST,
            "S3_ENDPOINT_URL": f"http://{LOOPBACK}:9",  # nobody stores anything here
            **environment,
        }
    )
    return plan, [WebInstance(servers, plan, f"web-{number}", variables) for number in (1, 2)]


def buy_token(plan: Plan) -> str:
    """A token that the gateway takes."""
    client = DemoClient(host=LOOPBACK, port=plan.settings.port)
    try:
        return client.ensure_token("", password=secrets.token_urlsafe())
    except DemoFailed as error:
        raise CheckFailed(str(error)) from error


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *map(int, children)]


def make_certificate(path: Path, *, name: str = SERVER_NAME, is_rsa: bool = False, ocsp_url: str = "") -> Path:
    """Write key and certificate for a name into one file, as certbot's hook does; it is its own authority."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048) if is_rsa else _ec_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if ocsp_url:
        responder = x509.UniformResourceIdentifier(ocsp_url)
        access = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, responder)
        builder = builder.add_extension(x509.AuthorityInformationAccess([access]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


def _ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())
