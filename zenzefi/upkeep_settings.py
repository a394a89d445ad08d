"""The settings of what nobody sees working: object stores, backups, retention and mail."""

from dataclasses import dataclass, field
from datetime import time
from decimal import Decimal
from email.errors import MessageError
from email.headerregistry import Address
from email.utils import parseaddr
from enum import StrEnum
from zoneinfo import ZoneInfo

from zenzefi.environment import EnvironmentReader, SettingsError


class Checksums(StrEnum):
    """When S3 gets checksums of the newer kind, which some stores do not know."""

    WHEN_REQUIRED = "when_required"
    WHEN_SUPPORTED = "when_supported"


class ObjectLockMode(StrEnum):
    """Whether somebody with the right to may still delete a locked object (governance), or nobody (compliance)."""

    GOVERNANCE = "governance"
    COMPLIANCE = "compliance"


class MailEncryption(StrEnum):
    """How the connection to the mail server is encrypted."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStore:
    """A bucket of an S3 server; one without a bucket's name is not configured."""

    endpoint_url: str
    bucket: str
    region: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    path_style: bool
    checksums: Checksums


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSettings:
    """When, for whom and for how long the database is backed up. ``recipients`` are age public keys."""

    at: time
    timezone: ZoneInfo
    recipients: tuple[str, ...]
    identity: str = field(repr=False)
    prefix: str
    postgres_user: str
    postgres_password: str = field(repr=False)
    postgres_bin: str
    keep_days: int
    keep_daily: int
    keep_weekly: int
    keep_monthly: int
    keep_verified: int
    object_lock_days: int
    object_lock_mode: ObjectLockMode
    copy: ObjectStore | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """For how many days what grows with traffic is kept."""

    audit_days: int
    usage_hourly_days: int
    usage_daily_days: int
    session_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MailSettings:
    """Where mail is handed in; without a host none is written."""

    host: str
    port: int
    encryption: MailEncryption
    ca_file: str
    username: str
    password: str = field(repr=False)
    sender: str
    low_balance: Decimal
    expiry_notice_h: int


class UpkeepReader(EnvironmentReader):
    """Reads the variables of upkeep."""

    def object_store(self, prefix: str) -> ObjectStore:
        """The bucket whose variables begin with `prefix`."""
        return ObjectStore(
            endpoint_url=self.url(f"{prefix}_ENDPOINT_URL", ""),
            bucket=self.text(f"{prefix}_BUCKET", ""),
            region=self.text(f"{prefix}_REGION", "us-east-1"),
            access_key=self.text(f"{prefix}_ACCESS_KEY", ""),
            secret_key=self.text(f"{prefix}_SECRET_KEY", ""),
            path_style=self.flag(f"{prefix}_PATH_STYLE", default=True),
            # MinIO, Backblaze B2 and SeaweedFS do not all know the newer kind.
            checksums=self.read(
                f"{prefix}_CHECKSUMS", Checksums, "when_required or when_supported", default=Checksums.WHEN_REQUIRED
            ),
        )

    def backup(self, *, owner_user: str, owner_password: str) -> BackupSettings:
        """The backups; the database's owner makes them unless a login of their own is named."""
        copy = self.object_store("BACKUP_COPY_S3")
        return BackupSettings(
            at=self.read("BACKUP_AT", _time_of_day, "a time of day such as 03:00", default=time(3)),
            timezone=self.read(
                "BACKUP_TIMEZONE", _timezone, "a time zone's name such as Europe/Berlin", default=ZoneInfo("UTC")
            ),
            recipients=self.read("BACKUP_RECIPIENTS", _recipients, "age1…, separated by commas", default=()),
            identity=self.read("BACKUP_IDENTITY", _identity, "an age identity: AGE-SECRET-KEY-1…", default=""),
            prefix=self.read("BACKUP_PREFIX", _prefix, "path segments such as backups/eu", default="backups"),
            postgres_user=self.text("BACKUP_POSTGRES_USER", owner_user),
            postgres_password=self.text("BACKUP_POSTGRES_PASSWORD", owner_password),
            postgres_bin=self.text("POSTGRES_BIN", ""),
            keep_days=self._days("BACKUP_KEEP_DAYS", 30),
            keep_daily=self._count("BACKUP_KEEP_DAILY", 0),
            keep_weekly=self._count("BACKUP_KEEP_WEEKLY", 0),
            keep_monthly=self._count("BACKUP_KEEP_MONTHLY", 0),
            keep_verified=self.integer("BACKUP_KEEP_VERIFIED", 7, least=1, most=10_000),
            object_lock_days=self._count("BACKUP_OBJECT_LOCK_DAYS", 0),
            object_lock_mode=self.read(
                "BACKUP_OBJECT_LOCK_MODE", ObjectLockMode, "governance or compliance", default=ObjectLockMode.GOVERNANCE
            ),
            copy=copy if copy.bucket else None,
        )

    def retention(self) -> RetentionSettings:
        """How long rows are kept."""
        return RetentionSettings(
            audit_days=self._days("AUDIT_KEEP_DAYS", 365),
            usage_hourly_days=self._days("USAGE_KEEP_HOURLY_DAYS", 90),
            usage_daily_days=self._days("USAGE_KEEP_DAILY_DAYS", 1100),
            session_days=self._days("SESSION_KEEP_DAYS", 90),
        )

    def mail(self) -> MailSettings:
        """The mail server."""
        host = self.text("SMTP_HOST", "")
        sender = self.read("MAIL_FROM", _address, "an e-mail address, with or without a name", default="")
        if host and not sender:
            raise SettingsError("MAIL_FROM is not set, and SMTP_HOST needs it.")
        encryption = self.read(
            "SMTP_ENCRYPTION", MailEncryption, "starttls, tls or none", default=MailEncryption.STARTTLS
        )
        default_port = 465 if encryption is MailEncryption.TLS else 587
        return MailSettings(
            host=host,
            port=self.integer("SMTP_PORT", default_port, least=1, most=65535),
            encryption=encryption,
            ca_file=self.file("SMTP_CA_FILE"),
            username=self.text("SMTP_USERNAME", ""),
            password=self.text("SMTP_PASSWORD", ""),
            sender=sender,
            low_balance=self.money("MAIL_LOW_BALANCE", "10.00"),
            expiry_notice_h=self.integer("MAIL_EXPIRY_NOTICE_HOURS", 24, least=1, most=720),
        )

    def _days(self, name: str, default: int) -> int:
        return self.integer(name, default, least=1, most=36_500)

    def _count(self, name: str, default: int) -> int:
        return self.integer(name, default, least=0, most=36_500)


def _time_of_day(raw: str) -> time:
    value = time.fromisoformat(raw)
    if value.tzinfo is not None or value.second or value.microsecond:
        raise ValueError
    return value


def _timezone(raw: str) -> ZoneInfo:
    try:
        return ZoneInfo(raw)
    except (OSError, KeyError) as error:  # ZoneInfoNotFoundError is a KeyError; a folder's name is an OSError
        raise ValueError from error


def _recipients(raw: str) -> tuple[str, ...]:
    keys = tuple(part.strip() for part in raw.split(",") if part.strip())
    if not all(key.startswith("age1") for key in keys):
        raise ValueError
    return keys


def _identity(raw: str) -> str:
    # A file that age-keygen wrote has comments above the key.
    keys = [line.strip() for line in raw.splitlines() if line.strip() and not line.startswith("#")]
    if len(keys) != 1 or not keys[0].startswith("AGE-SECRET-KEY-1"):
        raise ValueError
    return keys[0]


def _prefix(raw: str) -> str:
    segments = raw.strip("/").split("/")
    if not all(segment and segment not in (".", "..") and segment.isprintable() for segment in segments):
        raise ValueError
    return "/".join(segments)


def _address(raw: str) -> str:
    name, address = parseaddr(raw)
    if not raw.isprintable() or not address.isascii() or not all(address.partition("@")):
        raise ValueError
    try:
        Address(display_name=name, addr_spec=address)
    except (MessageError, IndexError) as error:
        raise ValueError from error
    return raw
