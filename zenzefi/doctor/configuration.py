"""The settings themselves: what they make of this installation, before anything is asked of anybody."""

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Final
from urllib.parse import urlsplit

from zenzefi.doctor.addresses import is_beside_us, is_private
from zenzefi.doctor.findings import Finding, fail, ok, warn
from zenzefi.secret_key import WELL_KNOWN_SECRETS
from zenzefi.settings import PaymentProviderName, Settings

# A trusted network of so few bits holds more machines than anybody runs proxies on.
_SMALLEST_PREFIX: Final = {4: 8, 6: 32}
_TEST_KEYS: Final = ("sk_test_", "rk_test_", "test_")


def check_settings(settings: Settings) -> list[Finding]:
    """What no installation should have."""
    findings = [ok("settings", f"environment {settings.environment}")]
    if settings.is_development and not is_beside_us(settings.host):
        detail = f"environment development on {settings.host}: whoever reaches it can top up for nothing"
        findings = [warn("settings", detail, "Set ENVIRONMENT=production, or HOST=127.0.0.1.")]
    if settings.secret_key.lower() in WELL_KNOWN_SECRETS:
        fix = "Make one with: openssl rand -hex 32"
        findings.append(warn("secret key", "SECRET_KEY is a well-known example", fix))
    else:
        findings.append(ok("secret key", f"{len(settings.secret_key.encode())} bytes"))
    return findings


def check_configuration(settings: Settings) -> list[Finding]:
    """What production demands of the settings beyond that; their secrets are zenzefi.doctor.secrets' to judge."""
    return [
        _check_environment(settings),
        _check_proxies(settings.trusted_proxies),
        _check_limits(settings),
        _check_payments(settings),
        *_check_log(settings),
        *_check_encryption(settings),
    ]


def _check_environment(settings: Settings) -> Finding:
    if settings.is_development:
        detail = "development: whoever signs in can top up for nothing"
        return fail("environment", detail, "Set ENVIRONMENT=production.")
    return ok("environment", settings.environment)


def _check_proxies(networks: tuple[IPv4Network | IPv6Network, ...]) -> Finding:
    """Nothing here ends TLS, so that clients come by a proxy; limits by address need to know which to believe."""
    if not networks:
        detail = "none: all clients count as one, the proxy, and share its five sign-ins an hour"
        return fail("trusted proxies", detail, "Set TRUSTED_PROXIES to the addresses that the proxy connects from.")
    everybody = [network for network in networks if network.prefixlen < _SMALLEST_PREFIX[network.version]]
    if everybody:
        detail = f"{_listed(everybody)}: anybody can claim any address, and escape every limit by address"
        return fail("trusted proxies", detail, "Name only the proxy's own addresses in TRUSTED_PROXIES.")
    public = [network for network in networks if network.is_global and network.num_addresses > 1]
    if public:
        detail = f"{_listed(public)}: a public network, in which others may have machines, too"
        return warn("trusted proxies", detail, "Name each of the proxy's addresses in TRUSTED_PROXIES.")
    return ok("trusted proxies", _listed(networks))


def _check_limits(settings: Settings) -> Finding:
    limits = {
        "RATE_LIMIT_AUTH": settings.rate_limit_auth,
        "RATE_LIMIT_API": settings.rate_limit_api,
        "RATE_LIMIT_PROXY": settings.rate_limit_proxy,
    }
    off = [name for name, limit in limits.items() if limit is None]
    if off:
        return fail("rate limits", f"off: {', '.join(off)}", "Set them as README.md has them, or remove them.")
    if settings.rate_limit_superuser_bypass:
        detail = "superusers pass the API's limit, and so does whoever takes one of their logins"
        return warn("rate limits", detail, "Remove RATE_LIMIT_SUPERUSER_BYPASS.")
    shown = (f"{name} {limit.limit}/{limit.window_s}" for name, limit in limits.items() if limit is not None)
    return ok("rate limits", ", ".join(shown))


def _check_payments(settings: Settings) -> Finding:
    provider = settings.payment_provider
    keys = {
        PaymentProviderName.STRIPE: ("STRIPE_SECRET_KEY", settings.stripe_secret_key, settings.stripe_api_url),
        PaymentProviderName.YOOKASSA: ("YOOKASSA_SECRET_KEY", settings.yookassa_secret_key, settings.yookassa_api_url),
    }
    if provider is PaymentProviderName.MOCK:
        detail = "mock: its payments are not paid by anybody"
        return fail("payments", detail, "Set PAYMENT_PROVIDER to yookassa, stripe or none.")
    if provider not in keys:
        return warn("payments", "none: nobody can top up but by an operator", "Set PAYMENT_PROVIDER and its keys.")
    name, key, url = keys[provider]
    if key.startswith(_TEST_KEYS):
        return fail("payments", f"{name} is a test key: payments are not paid", f"Set {name} to the shop's live key.")
    if urlsplit(url).scheme != "https":
        return fail("payments", f"{provider} at {url}: the key crosses the network unencrypted", "Use https.")
    return ok("payments", str(provider))


def _check_log(settings: Settings) -> Iterator[Finding]:
    if settings.log_level == "debug":
        yield warn("log level", "debug: a line for every detail, and a disk full of them", "Set LOG_LEVEL=info.")


def _check_encryption(settings: Settings) -> Iterator[Finding]:
    """People's requests and the store's keys cross networks that others may share."""
    for name, variable, url in (
        ("upstream encryption", "ZENZEFI_TARGET_URL", settings.upstream_url),
        ("s3 encryption", "S3_ENDPOINT_URL", settings.s3.endpoint_url),
    ):
        parts = urlsplit(url)
        if parts.scheme == "http" and not is_private(parts.hostname or ""):
            detail = f"{url} is neither encrypted nor in a private network"
            yield fail(name, detail, f"Use https in {variable}, or reach it by a VPN.")


def _listed(networks: "list[IPv4Network | IPv6Network] | tuple[IPv4Network | IPv6Network, ...]") -> str:
    return ", ".join(map(str, networks))
