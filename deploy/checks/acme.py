"""The certificate's whole life: nginx begins with one of its own, certbot gets one, nginx serves it, and the next.

Debian's certbot, run by the scripts of deploy/certbot, asks Debian's pebble, which looks for the proof at our nginx.
"""

import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from deploy.checks import debian
from deploy.checks.failures import CheckFailed, require
from deploy.checks.files import DEPLOY
from deploy.checks.nginx_servers import Nginx, run_nginx
from deploy.checks.pebble import Pebble, run_pebble
from deploy.checks.running import run
from deploy.checks.servers import Servers, open_servers
from zenzefi.devstack.ports import LOOPBACK

_CERTBOT: Final = DEPLOY / "certbot"
_NAMES: Final = ("zenzefi.example", "www.zenzefi.example")
_NOBODY: Final = "127.0.0.1:9"
_TIMEOUT_S: Final = 180.0
# Of the 90 days that pebble gives: before and after two thirds.
_EARLY, _LATE = "+59d", "+61d"


def check_acme() -> None:
    """Raise CheckFailed when a certificate is not got, renewed or served."""
    with open_servers() as servers:
        site = _Site(servers)
        own = site.served()
        if [name.value for name in own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] != ["zenzefi.invalid"]:
            raise CheckFailed("nginx does not begin with a certificate of its own making.")
        first = site.next_after(own, lambda: site.run_service("+0d"), what="the first certificate")
        site.require_trusted(_NAMES)
        site.renew(_EARLY)
        if site.installed().serial_number != first.serial_number:
            raise CheckFailed("It is renewed before two thirds of its life are over.")
        site.next_after(first, lambda: site.set_clock(_LATE), what="the renewed certificate")
        # At that time it goes on renewing, once a second, and of two certbots at once one gives up. And it would put a
        # broken certificate right within a second.
        site.stop_service()
        third = site.next_after(
            site.newest(),
            lambda: site.renew("+0d", names=(*_NAMES, "api.zenzefi.example")),
            what="a certificate for one more name",
        )
        site.require_trusted((*_NAMES, "api.zenzefi.example"))
        site.break_certificate()
        if site.served().serial_number != third.serial_number:
            raise CheckFailed("nginx does not go on with the certificate before when a broken one is put in its place.")
        site.renew("+0d", "--force")
        site.next_after(third, lambda: None, what="a certificate that replaces a broken one")
    print("  four certificates got and served, after one of nginx's own; a broken one was passed over")


class _Site:
    """nginx, an authority, and certbot's files."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._certificate = servers.folder / "certificates/zenzefi.pem"
        self._certificate.parent.mkdir()
        # nginx must know all names that are asked for.
        names = (*_NAMES, "api.zenzefi.example")
        self._nginx: Nginx = run_nginx(
            servers, web=[_NOBODY], certificate=self._certificate, variables={"SERVER_NAME": " ".join(names)}
        )
        (self._nginx.run_dir / "acme").mkdir()
        self._pebble: Pebble = run_pebble(servers, http_port=self._nginx.http_port)
        self._clock = servers.folder / "clock"

    def _environment(self, names: tuple[str, ...]) -> dict[str, str]:
        debian.ensure("certbot", binary="certbot")
        return {
            "SERVER_NAME": " ".join(names),
            "ACME_SERVER": self._pebble.directory,
            "ACME_EMAIL": "operator@zenzefi.example",
            "ACME_WEBROOT": str(self._nginx.run_dir / "acme"),
            "ACME_INTERVAL": "1",
            "ACME_RETRY": "1",
            "CERTBOT_DIR": str(self._servers.folder / "letsencrypt"),
            "CERTIFICATE": str(self._certificate),
            "REQUESTS_CA_BUNDLE": str(self._pebble.ca),
            "PYTHONPATH": str(debian.packaged("/usr/lib/python3/dist-packages")),
            "LD_PRELOAD": str(_libfaketime()),
            "FAKETIME_NO_CACHE": "1",
        }

    def run_service(self, clock: str) -> None:
        """Start what the service certbot runs."""
        self.set_clock(clock)
        environment = {**self._environment(_NAMES), "FAKETIME_TIMESTAMP_FILE": str(self._clock)}
        self._service = self._servers.run("certbot", ["/bin/sh", _CERTBOT / "run.sh"], environment=environment)

    def stop_service(self) -> None:
        """End it by SIGTERM."""
        self._service.stop(timeout_s=_TIMEOUT_S)
        if self._service.returncode != 0:
            raise CheckFailed(f"The service certbot does not end well. {self._service.obituary()}")

    def set_clock(self, offset: str) -> None:
        """Have the service see another time."""
        new = self._clock.with_suffix(".new")
        new.write_text(f"{offset}\n", encoding="ascii")
        new.rename(self._clock)

    def renew(self, clock: str, *options: str, names: tuple[str, ...] = _NAMES) -> None:
        """Run what systemd's timer runs, at another time."""
        environment = debian.environment({**self._environment(names), "FAKETIME": clock})
        run(["/bin/sh", _CERTBOT / "renew.sh", *options], environment=environment)

    def break_certificate(self) -> None:
        """Put something there that is none, and wait until nginx has seen it."""
        self._certificate.write_text("no certificate\n", encoding="ascii")
        self._nginx.child.wait_until(lambda: "cannot use it" in self._nginx.log, timeout_s=_TIMEOUT_S)

    def served(self) -> x509.Certificate:
        """The certificate that nginx shows."""
        return x509.load_der_x509_certificate(self._shake_hands(_trust_anyone(), _NAMES[0]))

    def installed(self) -> x509.Certificate:
        """The certificate that is in the file."""
        return x509.load_pem_x509_certificate(self._certificate.read_bytes())

    def newest(self) -> x509.Certificate:
        """The certificate that is in the file, once nginx shows it; raises CheckFailed."""
        deadline = time.monotonic() + _TIMEOUT_S
        while (served := self.served()) != (installed := self.installed()):
            if time.monotonic() > deadline:
                raise CheckFailed(f"nginx serves {served.serial_number:x}, and {installed.serial_number:x} is there.")
            time.sleep(0.1)
        return installed

    def next_after(self, known: x509.Certificate, act: Callable[[], None], *, what: str) -> x509.Certificate:
        """The certificate that nginx shows once it is another than the known one; raises CheckFailed."""
        act()
        deadline = time.monotonic() + _TIMEOUT_S
        while (served := self.served()).serial_number == known.serial_number:
            if time.monotonic() > deadline:
                said = (self._servers.folder / "certbot.log").read_text(encoding="utf-8", errors="replace")
                raise CheckFailed(
                    f"nginx does not serve {what}. certbot: {said[-2000:]}\nnginx: {self._nginx.log[-1000:]}"
                )
            time.sleep(0.1)
        return served

    def require_trusted(self, names: tuple[str, ...]) -> None:
        """A client who trusts the authority gets in by each name."""
        trust = ssl.create_default_context(cadata=self._pebble.root())
        faults = []
        for name in names:
            try:
                self._shake_hands(trust, name)
            except ssl.SSLError as error:
                faults.append(f"{name}: {error}")
        mode = self._certificate.stat().st_mode & 0o777
        if mode != 0o640:
            faults.append(f"the file's mode is {mode:o}")
        require(faults, what="The certificate")

    def _shake_hands(self, context: ssl.SSLContext, name: str) -> bytes:
        address = (LOOPBACK, self._nginx.https_port)
        with (
            socket.create_connection(address, timeout=60) as plain,
            context.wrap_socket(plain, server_hostname=name) as connection,
        ):
            return connection.getpeercert(binary_form=True) or b""


def _trust_anyone() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _libfaketime() -> Path:
    """Shows programs another time."""
    debian.ensure("faketime", binary="faketime")
    folders = (debian.packaged("/usr/lib"), Path("/usr/lib"))
    found = [path for folder in folders for path in sorted(folder.glob("*/faketime/libfaketime.so.1"))]
    if not found:
        raise CheckFailed("Debian's package libfaketime has no libfaketime.so.1.")
    return found[0]
