"""What the installation talks to besides its databases: the object store, the upstream and the mail server."""

import asyncio
from typing import Final

from zenzefi.doctor.addresses import is_beside_us
from zenzefi.doctor.findings import Finding, fail, ok, warn
from zenzefi.health.probes import probe_upstream
from zenzefi.infra.http import open_upstream
from zenzefi.infra.storage import Storage, StorageError
from zenzefi.mail import delivery
from zenzefi.settings import Settings
from zenzefi.upkeep_settings import MailEncryption

STORAGE_TIMEOUT_S: Final = 10


async def check_storage(settings: Settings) -> list[Finding]:
    """Whether the bucket is there."""
    storage = Storage(settings.s3)
    if not storage.is_configured:
        return [warn("s3", "not configured: there can be no backups", "Set S3_BUCKET and the other S3_… variables.")]
    try:
        async with asyncio.timeout(STORAGE_TIMEOUT_S):
            await storage.check()
    except StorageError as error:
        return [fail("s3", str(error), "Create the bucket, or correct the S3_… variables.")]
    except TimeoutError:
        return [fail("s3", f"no answer in {STORAGE_TIMEOUT_S} s", "Correct S3_ENDPOINT_URL, or start the store.")]
    return [ok("s3", f"bucket {settings.s3.bucket}")]


async def check_upstream(settings: Settings) -> list[Finding]:
    """Whether the upstream answers HTTP."""
    async with open_upstream(settings) as session:
        check = await probe_upstream(session, settings.upstream_url)
    if check.passed:
        return [ok("upstream", settings.upstream_url)]
    detail = f"{settings.upstream_url}: {check.detail}"
    return [warn("upstream", detail, "Start it or the VPN to it, or correct ZENZEFI_TARGET_URL.")]


async def check_mail(settings: Settings) -> list[Finding]:
    """Whether the mail server takes our login."""
    mail, address = settings.mail, f"{settings.mail.host}:{settings.mail.port}"
    if not mail.host:
        return [ok("mail", "off: SMTP_HOST is not set")]
    try:
        await delivery.check(settings)
    except delivery.MailServerUnusable as error:
        return [fail("mail", f"{address}: {error}", "Correct the SMTP_… variables, or start the mail server.")]
    if mail.encryption is MailEncryption.NONE and not is_beside_us(mail.host):
        return [warn("mail", f"{address}: nothing is encrypted", "Set SMTP_ENCRYPTION=starttls, or tls.")]
    return [ok("mail", f"{address}, encryption {mail.encryption}")]
