"""Settings: frozen, checked once, read from the environment here and nowhere else.

Every variable may also come from a file: ``NAME_FILE=/path`` gives the variable ``NAME`` that file's text without its
last line break. A bad value raises SettingsError, which names the variable and what is allowed.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Self, cast

from zenzefi.environment import SettingsError
from zenzefi.secret_key import check_secret_key
from zenzefi.upkeep_settings import BackupSettings, MailSettings, ObjectStore, RetentionSettings, UpkeepReader

__all__ = ["Environment", "PaymentProviderName", "RateLimit", "Settings", "SettingsError"]

MIN_WEBHOOK_SECRET_CHARS = 16


class Environment(StrEnum):
    """Where this runs; anything but development is held to production's rules."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


class PaymentProviderName(StrEnum):
    """Who takes the payments; ``none`` offers no top-up at all."""

    NONE = "none"
    MOCK = "mock"
    YOOKASSA = "yookassa"
    STRIPE = "stripe"


# A provider without its keys could take no payment, and one without a secret would believe everybody.
REQUIRED_FOR_PROVIDER: Mapping[PaymentProviderName, tuple[str, ...]] = {
    PaymentProviderName.YOOKASSA: ("YOOKASSA_SHOP_ID", "YOOKASSA_SECRET_KEY"),
    PaymentProviderName.STRIPE: ("STRIPE_SECRET_KEY", "PAYMENT_WEBHOOK_SECRET"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most ``limit`` requests in any ``window_s`` seconds."""

    limit: int
    window_s: int


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
    postgres_direct_server: str
    postgres_direct_port: int
    postgres_pool_size: int
    postgres_statement_cache: int

    redis_host: str
    redis_deadline_s: float
    redis_port: int
    redis_db: int
    redis_password: str = field(repr=False)
    redis_cluster: bool
    queue_redis_host: str
    queue_redis_port: int
    queue_redis_db: int
    queue_redis_password: str = field(repr=False)

    s3: ObjectStore
    backup: BackupSettings
    retention: RetentionSettings
    mail: MailSettings

    port: int
    internal_port: int
    worker_metrics_port: int
    host: str
    internal_host: str
    processes: int
    backend_url: str
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    drain_timeout_s: float
    retire_timeout_s: float
    docs_enabled: bool
    log_level: str

    upstream_url: str
    upstream_ca_file: str
    upstream_connect_timeout_s: float
    upstream_head_timeout_s: float
    upstream_idle_timeout_s: float
    max_streams_per_token: int

    rate_limit_auth: RateLimit | None
    rate_limit_api: RateLimit | None
    rate_limit_proxy: RateLimit | None
    rate_limit_processes: int
    rate_limit_superuser_bypass: bool

    access_token_expire_minutes: int
    refresh_token_expire_days: int
    token_prices: Mapping[int, Decimal]
    znc_to_rub_rate: Decimal
    health_check_interval_s: float

    payment_provider: PaymentProviderName
    payment_return_hosts: tuple[str, ...]
    payment_provider_timeout_s: float
    payment_webhook_secrets: tuple[str, ...] = field(repr=False)
    yookassa_api_url: str
    yookassa_shop_id: str
    yookassa_secret_key: str = field(repr=False)
    yookassa_networks: tuple[IPv4Network | IPv6Network, ...]
    stripe_api_url: str
    stripe_secret_key: str = field(repr=False)

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


class _Reader(UpkeepReader):
    """Which variable each setting comes from, by area."""

    def settings(self) -> dict[str, Any]:
        environment = self.read("ENVIRONMENT", Environment, "development or production", default=Environment.PRODUCTION)
        postgres = self._postgres()
        return {
            "environment": environment,
            "secret_key": check_secret_key(
                self.text("SECRET_KEY", ""), is_development=environment is Environment.DEVELOPMENT
            ),
            **postgres,
            **self._redis(),
            "s3": self.object_store("S3"),
            "backup": self.backup(
                owner_user=postgres["postgres_owner_user"], owner_password=postgres["postgres_owner_password"]
            ),
            "retention": self.retention(),
            "mail": self.mail(),
            **self._web(environment),
            **self._upstream(),
            **self._rate_limits(),
            **self._product(),
            **self._payments(environment),
        }

    def _postgres(self) -> dict[str, Any]:
        user, password = self.text("POSTGRES_USER", "zenzefi"), self.text("POSTGRES_PASSWORD", "")
        server, port = (
            self.text("POSTGRES_SERVER", "127.0.0.1"),
            self.integer("POSTGRES_PORT", 5432, least=1, most=65535),
        )
        return {
            "postgres_server": server,
            "postgres_port": port,
            "postgres_user": user,
            "postgres_password": password,
            "postgres_db": self.text("POSTGRES_DB", "zenzefi"),
            "postgres_owner_user": self.text("POSTGRES_OWNER_USER", user),
            "postgres_owner_password": self.text("POSTGRES_OWNER_PASSWORD", password),
            # Migrations and backups keep session-level locks and snapshots, which PgBouncer does not pass on.
            "postgres_direct_server": self.text("POSTGRES_DIRECT_SERVER", server),
            "postgres_direct_port": self.integer("POSTGRES_DIRECT_PORT", port, least=1, most=65535),
            "postgres_pool_size": self.integer("POSTGRES_POOL_SIZE", 10, least=1, most=1000),
            # 0 behind PgBouncer in transaction mode, which cannot keep prepared statements by session.
            "postgres_statement_cache": self.integer("POSTGRES_STATEMENT_CACHE", 256, least=0, most=10_000),
        }

    def _redis(self) -> dict[str, Any]:
        host, port = self.text("REDIS_HOST", "127.0.0.1"), self.integer("REDIS_PORT", 6379, least=1, most=65535)
        database, password = self.integer("REDIS_DB", 0, least=0, most=1023), self.text("REDIS_PASSWORD", "")
        is_cluster, queue_host = self.flag("REDIS_CLUSTER", default=False), self.text("QUEUE_REDIS_HOST", "")
        if is_cluster and database:
            raise SettingsError("REDIS_DB is not 0, which a cluster (REDIS_CLUSTER) does not have.")
        if is_cluster and not queue_host:
            raise SettingsError("QUEUE_REDIS_HOST is not set: the job queue cannot use a cluster (REDIS_CLUSTER).")
        return {
            "redis_host": host,
            # The most that a dead Redis may add to a request.
            "redis_deadline_s": self.seconds("REDIS_DEADLINE", 0.05),
            "redis_port": port,
            "redis_db": database,
            "redis_password": password,
            "redis_cluster": is_cluster,
            "queue_redis_host": queue_host or host,
            "queue_redis_port": self.integer("QUEUE_REDIS_PORT", port, least=1, most=65535),
            "queue_redis_db": self.integer("QUEUE_REDIS_DB", database, least=0, most=1023),
            "queue_redis_password": self.text("QUEUE_REDIS_PASSWORD", password),
        }

    def _web(self, environment: Environment) -> dict[str, Any]:
        development = environment is Environment.DEVELOPMENT
        port = self.integer("PORT", 8000, least=0, most=65535)
        return {
            "port": port,
            "internal_port": self.integer("INTERNAL_PORT", 8001, least=0, most=65535),
            "worker_metrics_port": self.integer("WORKER_METRICS_PORT", 8002, least=0, most=65535),
            "host": self.text("HOST", "127.0.0.1"),
            "internal_host": self.text("INTERNAL_HOST", "127.0.0.1"),
            "processes": self._processes(),
            "backend_url": self.url("BACKEND_URL", f"http://127.0.0.1:{port}"),
            "trusted_proxies": self.networks("TRUSTED_PROXIES"),
            "drain_timeout_s": self.seconds("DRAIN_TIMEOUT", 30.0),
            "retire_timeout_s": self.seconds("RETIRE_TIMEOUT", 3600.0),
            "docs_enabled": self.flag("DOCS_ENABLED", default=development),
            "log_level": self.read("LOG_LEVEL", _log_level, "one of debug, info, warning, error", default="info"),
        }

    def _processes(self) -> int:
        return self.integer("PROCESSES", os.cpu_count() or 1, least=1, most=256)

    def _upstream(self) -> dict[str, Any]:
        return {
            "upstream_url": self.url("ZENZEFI_TARGET_URL", "http://127.0.0.1:9000").rstrip("/"),
            "upstream_ca_file": self.file("UPSTREAM_CA_FILE"),
            "upstream_connect_timeout_s": self.seconds("UPSTREAM_CONNECT_TIMEOUT", 5.0),
            "upstream_head_timeout_s": self.seconds("UPSTREAM_HEAD_TIMEOUT", 60.0),
            "upstream_idle_timeout_s": self.seconds("UPSTREAM_IDLE_TIMEOUT", 60.0),
            "max_streams_per_token": self.integer("MAX_STREAMS_PER_TOKEN", 64, least=1, most=4096),
        }

    def _rate_limits(self) -> dict[str, Any]:
        return {
            "rate_limit_auth": self._rate_limit("RATE_LIMIT_AUTH", RateLimit(limit=5, window_s=3600)),
            "rate_limit_api": self._rate_limit("RATE_LIMIT_API", RateLimit(limit=100, window_s=60)),
            "rate_limit_proxy": self._rate_limit("RATE_LIMIT_PROXY", RateLimit(limit=1000, window_s=60)),
            # Over all machines: what each process may admit by itself while Redis is away depends on it.
            "rate_limit_processes": self.integer("RATE_LIMIT_PROCESSES", self._processes(), least=1, most=10_000),
            "rate_limit_superuser_bypass": self.flag("RATE_LIMIT_SUPERUSER_BYPASS", default=False),
        }

    def _product(self) -> dict[str, Any]:
        return {
            "access_token_expire_minutes": self.integer("ACCESS_TOKEN_EXPIRE_MINUTES", 60, least=1, most=1440),
            "refresh_token_expire_days": self.integer("REFRESH_TOKEN_EXPIRE_DAYS", 30, least=1, most=365),
            "token_prices": {
                1: self.money("TOKEN_PRICE_1H", "1.00"),
                12: self.money("TOKEN_PRICE_12H", "10.00"),
                24: self.money("TOKEN_PRICE_24H", "18.00"),
                168: self.money("TOKEN_PRICE_7D", "100.00"),
                720: self.money("TOKEN_PRICE_30D", "300.00"),
            },
            "znc_to_rub_rate": self.money("ZNC_TO_RUB_RATE", "10.00"),
            "health_check_interval_s": self.seconds("HEALTH_CHECK_INTERVAL", 50.0),
        }

    def _payments(self, environment: Environment) -> dict[str, Any]:
        development = environment is Environment.DEVELOPMENT
        default = PaymentProviderName.MOCK if development else PaymentProviderName.NONE
        allowed = "none, mock, yookassa or stripe"
        provider = self.read("PAYMENT_PROVIDER", PaymentProviderName, allowed, default=default)
        secrets = (
            self.secret("PAYMENT_WEBHOOK_SECRET", least_chars=MIN_WEBHOOK_SECRET_CHARS),
            self.secret("PAYMENT_WEBHOOK_SECRET_PREVIOUS", least_chars=MIN_WEBHOOK_SECRET_CHARS),
        )
        for name in REQUIRED_FOR_PROVIDER.get(provider, ()):
            if not self.raw(name):
                raise SettingsError(f"{name} is not set, and PAYMENT_PROVIDER={provider} needs it.")
        return {
            "payment_provider": provider,
            "payment_return_hosts": self.hosts("PAYMENT_RETURN_HOSTS"),
            "payment_provider_timeout_s": self.seconds("PAYMENT_PROVIDER_TIMEOUT", 12.0),
            "payment_webhook_secrets": tuple(secret for secret in secrets if secret),
            "yookassa_api_url": self.url("YOOKASSA_API_URL", "https://api.yookassa.ru/v3").rstrip("/"),
            "yookassa_shop_id": self.text("YOOKASSA_SHOP_ID", ""),
            "yookassa_secret_key": self.text("YOOKASSA_SECRET_KEY", ""),
            "yookassa_networks": self.networks("YOOKASSA_NETWORKS"),
            "stripe_api_url": self.url("STRIPE_API_URL", "https://api.stripe.com").rstrip("/"),
            "stripe_secret_key": self.text("STRIPE_SECRET_KEY", ""),
        }

    def _rate_limit(self, name: str, default: RateLimit) -> RateLimit | None:
        def convert(raw: str) -> RateLimit | None:
            if raw.strip().lower() == "off":
                return None
            limit, _, window_s = raw.partition("/")
            if not 1 <= int(limit) <= 10_000_000 or not 1 <= int(window_s) <= 86_400:
                raise ValueError
            return RateLimit(limit=int(limit), window_s=int(window_s))

        allowed = "LIMIT/SECONDS such as 100/60, or off"
        return self.read(name, convert, allowed, default=cast("RateLimit | None", default))


def _log_level(raw: str) -> str:
    if raw.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError
    return raw.lower()
