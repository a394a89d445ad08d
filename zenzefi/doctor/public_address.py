"""The public address as strangers find it: its certificate, its TLS, what browsers are told, which ports are open."""

import asyncio
import re
import ssl
import time
import warnings
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from zenzefi.doctor.addresses import is_beside_us
from zenzefi.doctor.findings import Finding, fail, ok, warn
from zenzefi.settings import Settings

_TIMEOUT_S: Final = 5.0
_CLOSED_TIMEOUT_S: Final = 2.0  # firewalls drop silently
_DAY_S: Final = 86_400.0
# certbot renews when a third is left: past half of that, renewing fails. Certificates of six days are renewed, too.
_LATE_SHARE: Final = 1 / 6
_ENDING_SHARE: Final = 1 / 30  # the last three days of ninety
# What browsers' preload lists and most guides ask for is a year; half a year outlives any certificate.
MIN_HSTS_S: Final = 15_552_000


async def check_public_address(settings: Settings) -> list[Finding]:
    """Connect to BACKEND_URL as a client would."""
    parts = urlsplit(settings.backend_url)
    host = parts.hostname or ""
    if parts.scheme != "https":
        detail = f"BACKEND_URL={settings.backend_url}: tokens and passwords cross the network unencrypted"
        fix = "Set BACKEND_URL to the public https address that nginx serves."
        return [(warn if is_beside_us(host) else fail)("public address", detail, fix)]
    port = parts.port or 443
    certificate, old_protocols, answer, ports = await asyncio.gather(
        _check_certificate(host, port),
        _check_old_protocols(host, port),
        _check_answer(settings.backend_url),
        _check_ports(host, port, settings),
    )
    if certificate.name == "public address":  # nobody answers: nothing more to say of it
        return [certificate, ports]
    return [certificate, old_protocols, *answer, ports]


async def _check_certificate(host: str, port: int) -> Finding:
    name = "certificate"
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=ssl.create_default_context())
    except ssl.SSLCertVerificationError as error:
        detail = f"{host}: {error.verify_message}"
        return fail(name, detail, "Have certbot get one for this name, and nginx serve its fullchain.pem.")
    except OSError as error:  # ssl.SSLError and TimeoutError, too
        detail = f"{host}:{port}: {str(error) or 'no answer in time'}"
        return fail("public address", detail, "Start nginx, open the port, and let BACKEND_URL's name lead to it.")
    certificate = writer.get_extra_info("peercert")
    protocol = writer.get_extra_info("ssl_object").version()
    await _close(writer)
    begins, ends = (ssl.cert_time_to_seconds(certificate[key]) for key in ("notBefore", "notAfter"))
    left_s = ends - time.time()
    detail = f"{left_s / _DAY_S:.0f} of {(ends - begins) / _DAY_S:.0f} days left, {protocol}"
    if left_s < (ends - begins) * _LATE_SHARE:
        judge = fail if left_s < (ends - begins) * _ENDING_SHARE else warn
        return judge(name, detail, "It should have been renewed: deploy/runbooks/CertificateNotRenewed.md")
    return ok(name, detail)


async def _check_old_protocols(host: str, port: int) -> Finding:
    """TLS 1.0 and 1.1 are deprecated (RFC 8996)."""
    name = "old tls"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # another look judges the certificate
    context.set_ciphers("ALL:@SECLEVEL=0")  # else our own library would refuse before the server can
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # to ask for them is the point
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLError as error:
        if error.reason == "NO_PROTOCOLS_AVAILABLE":
            detail = "this machine's OpenSSL cannot ask for TLS 1.1"
            return warn(
                name, detail, f"Ask elsewhere: openssl s_client -tls1_1 -cipher ALL:@SECLEVEL=0 -connect {host}:{port}"
            )
        return ok(name, "refused")
    except OSError:  # a reset is a refusal, too; a server that is away is told of by the certificate
        return ok(name, "refused")
    await _close(writer)
    return fail(name, "a TLS 1.1 client is served", "ssl_protocols TLSv1.2 TLSv1.3; as in deploy/nginx.")


async def _check_answer(url: str) -> list[Finding]:
    """Ask for /health, whoever signed the certificate: that is judged by another look."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{url.rstrip('/')}/health", ssl=False, allow_redirects=False) as response,
        ):
            status, hsts = response.status, response.headers.get("Strict-Transport-Security", "")
    except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
        detail = f"{url}/health: {str(error) or 'no answer in time'}"
        return [fail("public health", detail, "See nginx's error log, and /readyz of the internal port.")]
    if status == 200:
        health = ok("public health", "answers")
    else:
        health = fail("public health", f"{url}/health: status {status}", "See /readyz of the internal port.")
    return [health, _judge_hsts(hsts)]


def _judge_hsts(header: str) -> Finding:
    found = re.search(r"max-age\s*=\s*\"?(\d+)", header, re.IGNORECASE)
    if found is None:
        detail = "no Strict-Transport-Security: a first visit may be led to http"
        return fail("hsts", detail, "add_header Strict-Transport-Security, as in deploy/nginx.")
    if int(found[1]) < MIN_HSTS_S:
        return warn("hsts", header, f"max-age of at least {MIN_HSTS_S}, as in deploy/nginx.")
    return ok("hsts", header)


async def _check_ports(host: str, public_port: int, settings: Settings) -> Finding:
    """Whether what nginx shields can be reached beside it, as far as can be seen from here."""
    name = "closed ports"
    if is_beside_us(host):
        return ok(name, "not looked at: BACKEND_URL is this machine itself")
    ports = {
        "PORT": settings.port,
        "INTERNAL_PORT": settings.internal_port,
        "WORKER_METRICS_PORT": settings.worker_metrics_port,
    }
    asked = {variable: port for variable, port in ports.items() if port not in (0, public_port)}
    answers = await asyncio.gather(*(_is_open(host, port) for port in asked.values()))
    opened = [f"{variable} {port}" for (variable, port), is_open in zip(asked.items(), answers, strict=True) if is_open]
    if opened:
        fix = "HOST=127.0.0.1 and INTERNAL_HOST=127.0.0.1, a network of containers alone, or a firewall."
        return fail(name, f"{host} lets everybody in at {', '.join(opened)}", fix)
    return ok(name, ", ".join(str(port) for port in asked.values()))


async def _is_open(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_CLOSED_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError, too
        return False
    await _close(writer)
    return True


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            await writer.wait_closed()
