"""Whether nginx's configuration is one that nginx takes and a linter finds no fault with, and refuses bad variables."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from deploy.checks import debian
from deploy.checks.failures import CheckFailed, require
from deploy.checks.nginx_servers import NGINX, make_certificate, nginx_environment
from deploy.checks.running import run
from deploy.checks.tools import python_tool

_WEB: Final = ("127.0.0.1:9", "[::1]:9")
# Of gixy's findings these are not ours: answers of the gateway are streams, and the product watches over slow readers.
_NOT_FAULTS: Final = "proxy_buffering_off"
# render.sh says `resolve` to an nginx that knows it, which Debian 12's does not.
_NOT_FAULTS_OF_NAMES: Final = f"{_NOT_FAULTS},stale_dns_cache"
_BAD_VARIABLES: Final[tuple[Mapping[str, str], ...]] = (
    {"SERVER_NAME": ""},
    {"SERVER_NAME": "a.example;return"},
    {"WEB_INSTANCES": "web"},
    {"WEB_INSTANCES": "web:8000;}"},
    {"NGINX_TRUSTED_PROXIES": "any"},
    {"NGINX_RESOLVER": "dns.example"},
)


def check_nginx() -> None:
    """Raise CheckFailed with what nginx or gixy find."""
    with tempfile.TemporaryDirectory(prefix="zenzefi-nginx-") as name:
        folder = Path(name)
        plain = _render(folder / "plain", make_certificate(folder / "plain.pem"), {})
        run([python_tool("gixy"), "--skips", _NOT_FAULTS, plain])
        everything = {
            "SERVER_NAME": "one.example two.example",
            "WEB_INSTANCES": "localhost:9 127.0.0.1:9",
            "NGINX_HTTP_LISTEN": "28080 [::]:28080",
            "NGINX_TRUSTED_PROXIES": "10.0.0.0/8 fd00::/8",
            "NGINX_RESOLVER": "127.0.0.53 ::1",
            "NGINX_PROXY_MAX_BODY": "5g",
        }
        certificate = make_certificate(folder / "ocsp.pem", ocsp_url="http://ocsp.example")
        full = _render(folder / "everything", certificate, everything)
        run([python_tool("gixy"), "--skips", _NOT_FAULTS_OF_NAMES, full])
        require(_find_wrong_stapling(plain, full), what="OCSP stapling")
        require(_find_accepted(folder), what="render.sh takes")


def _render(run_dir: Path, certificate: Path, variables: Mapping[str, str]) -> Path:
    """Render the templates, have nginx test the outcome, and give its root."""
    environment = debian.environment(nginx_environment(run_dir, web=_WEB, certificate=certificate, variables=variables))
    run(["/bin/sh", NGINX / "render.sh"], environment=environment)
    config = run_dir / "conf/nginx.conf"
    nginx = debian.ensure("nginx", binary="nginx")
    run([nginx, "-t", "-q", "-e", "stderr", "-p", run_dir, "-c", config], environment=environment)
    return config


def _find_wrong_stapling(plain: Path, full: Path) -> Iterator[str]:
    if "\nssl_stapling on;" in plain.with_name("tls.conf").read_text(encoding="utf-8"):
        yield "is on though the certificate names no responder"
    if "\nssl_stapling on;" not in full.with_name("tls.conf").read_text(encoding="utf-8"):
        yield "is off though the certificate names a responder"


def _find_accepted(folder: Path) -> Iterator[str]:
    for variables in _BAD_VARIABLES:
        try:
            _render(folder / "bad", folder / "plain.pem", variables)
        except CheckFailed as refusal:
            if next(iter(variables)) in str(refusal):
                continue
        yield str(dict(variables))
