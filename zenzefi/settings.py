"""Settings: frozen, checked once, read from the environment here and nowhere else.

Every variable may also come from a file: ``NAME_FILE=/path`` gives the variable ``NAME`` that file's text without its
last line break. A bad value raises SettingsError, which names the variable and what is allowed.
"""

import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

# Keys that stand in examples and tutorials: known to everybody, hence no secret.
WELL_KNOWN_SECRETS = frozenset(
    {
        "changeme",
        "change-me",
        "secret",
        "secretkey",
        "your-secret-key",
        "your-secret-key-here",
        "your-secret-key-change-in-production",
        "your-super-secret-key-change-this-in-production",
        "insecure-development-key-do-not-use-in-production",
    }
)
MIN_SECRET_BYTES = 32


class SettingsError(Exception):
    """A variable of the environment has a value that cannot be used."""


class Environment(StrEnum):
    """Where this runs; anything but development is held to production's rules."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


class PaymentProviderName(StrEnum):
    """Who takes the payments; ``none`` offers no top-up at all."""

    NONE = "none"
    MOCK = "mock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that can be set; names, defaults and meanings are in README.md's table."""

    environment: Environment
    secret_key: str = field(repr=False)

    postgres_server: str
    postgres_port: int
    postgres_user: str
    postgres_password: str = field(repr=False)
    postgres_db: str
    postgres_owner_user: str
    postgres_owner_password: str = field(repr=False)
    postgres_pool_size: int
    postgres_statement_cache: int

    redis_host: str
    redis_port: int
    redis_db: int
    redis_password: str = field(repr=False)

    s3_endpoint_url: str
    s3_bucket: str
    s3_region: str
    s3_access_key: str = field(repr=False)
    s3_secret_key: str = field(repr=False)

    port: int
    internal_port: int
    host: str
    internal_host: str
    processes: int
    backend_url: str
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    drain_timeout_s: float
    docs_enabled: bool
    log_level: str

    upstream_url: str
    upstream_ca_file: str
    upstream_connect_timeout_s: float
    upstream_head_timeout_s: float
    upstream_idle_timeout_s: float

    access_token_expire_minutes: int
    refresh_token_expire_days: int
    token_prices: Mapping[int, Decimal]
    znc_to_rub_rate: Decimal
    payment_provider: PaymentProviderName
    health_check_interval_s: float

    @property
    def is_development(self) -> bool:
        """Whether the conveniences that production must not have are on."""
        return self.environment is Environment.DEVELOPMENT

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read and check all settings.

        Raises:
            SettingsError: a variable is bad or missing; the message names it and says what is allowed.
        """
        return cls(**_Reader(os.environ if environ is None else environ).settings())


class _Reader:
    """Reads one environment; each method takes a variable's name and says what is allowed."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)

    def settings(self) -> dict[str, Any]:
        environment = self._read(
            "ENVIRONMENT", Environment, "development or production", default=Environment.PRODUCTION
        )
        return {
            "environment": environment,
            "secret_key": self._secret_key(environment),
            **self._postgres(),
            **self._redis_and_s3(),
            **self._web(environment),
            **self._upstream(),
            **self._product(environment),
        }

    def _postgres(self) -> dict[str, Any]:
        user, password = self._text("POSTGRES_USER", "zenzefi"), self._text("POSTGRES_PASSWORD", "")
        return {
            "postgres_server": self._text("POSTGRES_SERVER", "127.0.0.1"),
            "postgres_port": self._integer("POSTGRES_PORT", 5432, least=1, most=65535),
            "postgres_user": user,
            "postgres_password": password,
            "postgres_db": self._text("POSTGRES_DB", "zenzefi"),
            "postgres_owner_user": self._text("POSTGRES_OWNER_USER", user),
            "postgres_owner_password": self._text("POSTGRES_OWNER_PASSWORD", password),
            "postgres_pool_size": self._integer("POSTGRES_POOL_SIZE", 10, least=1, most=1000),
            # 0 behind PgBouncer in transaction mode, which cannot keep prepared statements by session.
            "postgres_statement_cache": self._integer("POSTGRES_STATEMENT_CACHE", 256, least=0, most=10_000),
        }

    def _redis_and_s3(self) -> dict[str, Any]:
        return {
            "redis_host": self._text("REDIS_HOST", "127.0.0.1"),
            "redis_port": self._integer("REDIS_PORT", 6379, least=1, most=65535),
            "redis_db": self._integer("REDIS_DB", 0, least=0, most=1023),
            "redis_password": self._text("REDIS_PASSWORD", ""),
            "s3_endpoint_url": self._url("S3_ENDPOINT_URL", ""),
            "s3_bucket": self._text("S3_BUCKET", ""),
            "s3_region": self._text("S3_REGION", "us-east-1"),
            "s3_access_key": self._text("S3_ACCESS_KEY", ""),
            "s3_secret_key": self._text("S3_SECRET_KEY", ""),
        }

    def _web(self, environment: Environment) -> dict[str, Any]:
        development = environment is Environment.DEVELOPMENT
        port = self._integer("PORT", 8000, least=0, most=65535)
        return {
            "port": port,
            "internal_port": self._integer("INTERNAL_PORT", 8001, least=0, most=65535),
            "host": self._text("HOST", "127.0.0.1"),
            "internal_host": self._text("INTERNAL_HOST", "127.0.0.1"),
            "processes": self._integer("PROCESSES", os.cpu_count() or 1, least=1, most=256),
            "backend_url": self._url("BACKEND_URL", f"http://127.0.0.1:{port}"),
            "trusted_proxies": self._networks("TRUSTED_PROXIES"),
            "drain_timeout_s": self._seconds("DRAIN_TIMEOUT", 30.0),
            "docs_enabled": self._flag("DOCS_ENABLED", development),
            "log_level": self._read("LOG_LEVEL", _log_level, "one of debug, info, warning, error", default="info"),
        }

    def _upstream(self) -> dict[str, Any]:
        return {
            "upstream_url": self._url("ZENZEFI_TARGET_URL", "http://127.0.0.1:9000").rstrip("/"),
            "upstream_ca_file": self._file("UPSTREAM_CA_FILE"),
            "upstream_connect_timeout_s": self._seconds("UPSTREAM_CONNECT_TIMEOUT", 5.0),
            "upstream_head_timeout_s": self._seconds("UPSTREAM_HEAD_TIMEOUT", 60.0),
            "upstream_idle_timeout_s": self._seconds("UPSTREAM_IDLE_TIMEOUT", 60.0),
        }

    def _product(self, environment: Environment) -> dict[str, Any]:
        development = environment is Environment.DEVELOPMENT
        provider = PaymentProviderName.MOCK if development else PaymentProviderName.NONE
        return {
            "access_token_expire_minutes": self._integer("ACCESS_TOKEN_EXPIRE_MINUTES", 60, least=1, most=1440),
            "refresh_token_expire_days": self._integer("REFRESH_TOKEN_EXPIRE_DAYS", 30, least=1, most=365),
            "token_prices": {
                1: self._money("TOKEN_PRICE_1H", "1.00"),
                12: self._money("TOKEN_PRICE_12H", "10.00"),
                24: self._money("TOKEN_PRICE_24H", "18.00"),
                168: self._money("TOKEN_PRICE_7D", "100.00"),
                720: self._money("TOKEN_PRICE_30D", "300.00"),
            },
            "znc_to_rub_rate": self._money("ZNC_TO_RUB_RATE", "10.00"),
            "payment_provider": self._read("PAYMENT_PROVIDER", PaymentProviderName, "none or mock", default=provider),
            "health_check_interval_s": self._seconds("HEALTH_CHECK_INTERVAL", 50.0),
        }

    def _secret_key(self, environment: Environment) -> str:
        key = self._text("SECRET_KEY", "")
        if len(key.encode()) < MIN_SECRET_BYTES and (key or environment is not Environment.DEVELOPMENT):
            raise SettingsError(
                f"SECRET_KEY has {len(key.encode())} bytes; at least {MIN_SECRET_BYTES} are needed. "
                "Make one with: openssl rand -hex 32"
            )
        if environment is not Environment.DEVELOPMENT and _is_well_known(key):
            raise SettingsError(
                "SECRET_KEY is a well-known example or repeats a few characters, so anybody can guess it. "
                "Make one with: openssl rand -hex 32"
            )
        if not key:
            raise SettingsError(
                "SECRET_KEY is not set. `make run` makes one for development; elsewhere: openssl rand -hex 32"
            )
        return key

    def _raw(self, name: str) -> str | None:
        path = self._environ.get(f"{name}_FILE")
        if path is None or path == "":
            return self._environ.get(name)
        if self._environ.get(name):
            raise SettingsError(f"{name} and {name}_FILE are both set; keep one of them.")
        try:
            return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise SettingsError(f"{name}_FILE={path} cannot be read: {reason}.") from None

    def _read(self, name: str, convert: Callable[[str], T], allowed: str, *, default: T) -> T:
        raw = self._raw(name)
        if raw is None or raw == "":
            return default
        try:
            return convert(raw)
        except (ValueError, ArithmeticError):
            # The value itself is not repeated: it may be a secret that went into the wrong variable.
            raise SettingsError(f"{name} has a value that cannot be used; allowed: {allowed}.") from None

    def _text(self, name: str, default: str) -> str:
        return self._read(name, str, "text", default=default)

    def _integer(self, name: str, default: int, *, least: int, most: int) -> int:
        def convert(raw: str) -> int:
            value = int(raw)
            if not least <= value <= most:
                raise ValueError
            return value

        return self._read(name, convert, f"a whole number from {least} to {most}", default=default)

    def _seconds(self, name: str, default: float) -> float:
        def convert(raw: str) -> float:
            value = float(raw)
            if not 0 < value <= 86_400:
                raise ValueError
            return value

        return self._read(name, convert, "seconds, more than 0 and at most 86400", default=default)

    def _money(self, name: str, default: str) -> Decimal:
        def convert(raw: str) -> Decimal:
            value = Decimal(raw)
            if not value.is_finite() or not 0 < value <= 1_000_000 or value != value.quantize(Decimal("0.01")):
                raise ValueError
            return value.quantize(Decimal("0.01"))

        allowed = "an amount above 0 with at most two decimals"
        return self._read(name, convert, allowed, default=Decimal(default))

    def _flag(self, name: str, default: bool) -> bool:
        def convert(raw: str) -> bool:
            word = raw.strip().lower()
            if word not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
                raise ValueError
            return word in ("1", "true", "yes", "on")

        return self._read(name, convert, "true or false", default=default)

    def _url(self, name: str, default: str) -> str:
        def convert(raw: str) -> str:
            parts = urlsplit(raw)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise ValueError
            parts.port  # noqa: B018  raises ValueError when it is no port number
            return raw

        return self._read(name, convert, "http://host[:port][/path] or https://…", default=default)

    def _file(self, name: str) -> str:
        def convert(raw: str) -> str:
            if not Path(raw).is_file():
                raise ValueError
            return raw

        return self._read(name, convert, "the path of a file that exists", default="")

    def _networks(self, name: str) -> tuple[IPv4Network | IPv6Network, ...]:
        def convert(raw: str) -> tuple[IPv4Network | IPv6Network, ...]:
            return tuple(ipaddress.ip_network(part.strip()) for part in raw.split(",") if part.strip())

        allowed = "addresses or CIDR ranges, separated by commas"
        return self._read(name, convert, allowed, default=())


def _log_level(raw: str) -> str:
    if raw.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError
    return raw.lower()


def _is_well_known(key: str) -> bool:
    return key.lower() in WELL_KNOWN_SECRETS or len(set(key)) < 8
