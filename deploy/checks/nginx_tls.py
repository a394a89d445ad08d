"""What nginx's TLS is to clients of every kind: the versions, ciphers and names that are promised, and no others."""

import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from deploy.checks import debian
from deploy.checks.failures import CheckFailed, require
from deploy.checks.nginx_servers import SERVER_NAME, Nginx, make_certificate, run_nginx
from deploy.checks.running import run
from deploy.checks.servers import Servers, open_servers
from zenzefi.devstack.ports import LOOPBACK, find_free_port

_NOBODY: Final = "127.0.0.1:9"
# Mozilla's intermediate profile, by the kind of the server's key.
_CIPHERS: Final = {
    "ECDSA": {"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"},
    "RSA": {"ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305"},
}
_CIPHERS_1_3: Final = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
# Not even OpenSSL's own restrictions may stand in the client's way.
_ANY: Final = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"
_OLD_VERSIONS: Final = ("-tls1", "-tls1_1")
_TIMEOUT_S: Final = 60.0
_AT_ONCE: Final = 8


def check_tls() -> None:
    """Raise CheckFailed when a client gets in that should not, or one stays out that should get in."""
    with open_servers() as servers:
        _check_client(servers)
        for kind, ciphers in _CIPHERS.items():
            certificate = make_certificate(servers.folder / f"{kind}.pem", is_rsa=kind == "RSA")
            nginx = run_nginx(servers, web=[_NOBODY], certificate=certificate)
            require(_compare_ciphers(nginx, ciphers), what=f"Ciphers with an {kind} key")
            require(_find_old_versions(nginx), what=f"Old versions with an {kind} key")
            require(_find_wrong_details(nginx), what=f"TLS with an {kind} key")
    print(f"  {len(_tls_1_2_ciphers())} ciphers of TLS 1.2 tried with each kind of key")


def _check_client(servers: Servers) -> None:
    """The client must be able to do what nginx refuses it, or its refusals would mean nothing."""
    certificate = make_certificate(servers.folder / "control.pem", is_rsa=True)
    port = find_free_port()
    openssl = debian.ensure("openssl", binary="openssl")
    command: list[str | Path] = [openssl, "s_server", "-accept", f"{LOOPBACK}:{port}", "-quiet", "-cipher", _ANY]
    child = servers.run("s_server", [*command, "-cert", certificate, "-key", certificate])
    child.wait_until(lambda: _handshake(port, "-tls1_2") != "", timeout_s=_TIMEOUT_S)
    missing = [version for version in _OLD_VERSIONS if not _handshake(port, version, "-cipher", _ANY)]
    missing += [one for one in ("AES128-SHA", "NULL-SHA256") if not _handshake(port, "-tls1_2", "-cipher", _weak(one))]
    require(missing, what="This machine's openssl cannot try")


def _handshake(port: int, *options: str) -> str:
    """What openssl says of its connection to nginx; "" when there was none."""
    openssl = debian.ensure("openssl", binary="openssl")
    connect = ["s_client", "-connect", f"{LOOPBACK}:{port}"]
    name = [] if "-noservername" in options or "-servername" in options else ["-servername", SERVER_NAME]
    try:
        completed = subprocess.run(  # noqa: S603  a program of the checks, options of ours
            [openssl, *connect, *name, *options],
            env=debian.environment(),
            input="Q\n",
            capture_output=True,
            text=True,
            errors="replace",  # frames of HTTP/2
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CheckFailed(f"A TLS handshake with {' '.join(options)} hangs.") from None
    return completed.stdout if completed.returncode == 0 else ""


def _weak(cipher: str) -> str:
    return f"{cipher}:@SECLEVEL=0"


def _tls_1_2_ciphers() -> Sequence[str]:
    """All that OpenSSL has for TLS 1.2, anonymous and empty ones included."""
    openssl = debian.ensure("openssl", binary="openssl")
    names = run([openssl, "ciphers", "-s", "-tls1_2", _ANY], environment=debian.environment())
    # Those with a shared secret need one, and nginx has none.
    return [name for name in names.split(":") if not name.startswith("TLS_") and "PSK" not in name]


def _compare_ciphers(nginx: Nginx, expected: set[str]) -> Iterator[str]:
    def is_accepted(cipher: str) -> bool:
        return bool(_handshake(nginx.https_port, "-tls1_2", "-cipher", _weak(cipher)))

    names = _tls_1_2_ciphers()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        accepted = {name for name, is_in in zip(names, pool.map(is_accepted, names), strict=True) if is_in}
    yield from (f"{name} is accepted" for name in sorted(accepted - expected))
    yield from (f"{name} is refused" for name in sorted(expected - accepted))
    for name in sorted(_CIPHERS_1_3):
        if not _handshake(nginx.https_port, "-tls1_3", "-ciphersuites", name):
            yield f"{name} is refused"


def _find_old_versions(nginx: Nginx) -> Iterator[str]:
    for version in _OLD_VERSIONS:
        if _handshake(nginx.https_port, version, "-cipher", _ANY):
            yield f"a client of {version[1:]} is let in"


def _find_wrong_details(nginx: Nginx) -> Iterator[str]:
    port = nginx.https_port
    for version in ("-tls1_2", "-tls1_3"):
        said = _handshake(port, version, "-alpn", "h2,http/1.1", "-groups", "X25519:P-256")
        if "ALPN protocol: h2" not in said:
            yield f"{version[1:]}: HTTP/2 is not agreed on"
        if "Server Temp Key: X25519" not in said:
            yield f"{version[1:]}: the key exchange is not X25519"
        if "Compression: NONE" not in said:
            yield f"{version[1:]}: TLS compresses"
    if "OCSP response: no response sent" not in _handshake(port, "-status"):
        yield "an OCSP response is sent, which no authority has made"
    ticket = nginx.run_dir / "session"
    _handshake(port, "-tls1_2", "-sess_out", str(ticket))
    if "Reused, TLSv1.2" not in _handshake(port, "-tls1_2", "-sess_in", str(ticket)):
        yield "a session of TLS 1.2 is not resumed"
    for who, options in {
        "a client that names another server": ("-servername", "other.example"),
        "a client that names none": ("-noservername",),
    }.items():
        if _handshake(port, *options):
            yield f"{who} is let in"
