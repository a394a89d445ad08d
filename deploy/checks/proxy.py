"""nginx before the product, with TLS: what the probes of the public address and nginx's exporter look at."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.checks import debian
from deploy.checks.servers import Servers
from zenzefi.devstack.ports import LOOPBACK, find_free_port

_CONFIG: Final = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {host}:{port} ssl;
        ssl_certificate {folder}/certificate.pem;
        ssl_certificate_key {folder}/key.pem;
        location / {{
            proxy_pass http://{web};
        }}
    }}
    server {{
        listen {host}:{status_port};
        location = /stub_status {{
            stub_status;
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A running nginx; `ca` is the certificate that its own is to be trusted by."""

    url: str
    stub_status_url: str
    ca: Path


def run_proxy(servers: Servers, *, web: str) -> Proxy:
    """Start nginx before the web processes at this address."""
    folder = servers.folder / "nginx"
    folder.mkdir()
    _make_certificate(folder)
    port, status_port = find_free_port(), find_free_port()
    config = folder / "nginx.conf"
    config.write_text(
        _CONFIG.format(folder=folder, host=LOOPBACK, port=port, status_port=status_port, web=web), encoding="utf-8"
    )
    nginx = debian.ensure("nginx", binary="nginx")
    stub_status_url = f"http://{LOOPBACK}:{status_port}/stub_status"
    servers.run("nginx", [nginx, "-p", folder, "-e", "stderr", "-c", config], ready_url=stub_status_url)
    return Proxy(url=f"https://{LOOPBACK}:{port}", stub_status_url=stub_status_url, ca=folder / "certificate.pem")


def _make_certificate(folder: Path) -> None:
    """A certificate for the loopback address that lasts as long as one of a public authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "zenzefi check")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
