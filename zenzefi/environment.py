"""The environment, read variable by variable: each from its name or from the file that NAME_FILE gives."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")


class SettingsError(Exception):
    """A variable of the environment has a value that cannot be used."""


class EnvironmentReader:
    """Reads one environment. Every method takes a variable's name; a bad value raises SettingsError."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Take the environment; it is copied."""
        self._environ = dict(environ)

    def raw(self, name: str) -> str | None:
        """The text of a variable or of its file, or None."""
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

    def read(self, name: str, convert: Callable[[str], T], allowed: str, *, default: T) -> T:
        """The converted value; ``allowed`` says in the error what would have been right."""
        raw = self.raw(name)
        if raw is None or raw == "":
            return default
        try:
            return convert(raw)
        except (ValueError, ArithmeticError):
            # The value itself is not repeated: it may be a secret that went into the wrong variable.
            raise SettingsError(f"{name} has a value that cannot be used; allowed: {allowed}.") from None

    def text(self, name: str, default: str) -> str:
        """Any text."""
        return self.read(name, str, "text", default=default)

    def secret(self, name: str, *, least_chars: int) -> str:
        """A text that is too long to be guessed, or nothing."""

        def convert(raw: str) -> str:
            if len(raw) < least_chars:
                raise ValueError
            return raw

        return self.read(name, convert, f"at least {least_chars} characters", default="")

    def integer(self, name: str, default: int, *, least: int, most: int) -> int:
        """A whole number between two bounds, both included."""

        def convert(raw: str) -> int:
            value = int(raw)
            if not least <= value <= most:
                raise ValueError
            return value

        return self.read(name, convert, f"a whole number from {least} to {most}", default=default)

    def seconds(self, name: str, default: float) -> float:
        """A span of time of at most a day."""

        def convert(raw: str) -> float:
            value = float(raw)
            if not 0 < value <= 86_400:
                raise ValueError
            return value

        return self.read(name, convert, "seconds, more than 0 and at most 86400", default=default)

    def money(self, name: str, default: str) -> Decimal:
        """An amount above 0 with at most two decimals."""

        def convert(raw: str) -> Decimal:
            value = Decimal(raw)
            if not value.is_finite() or not 0 < value <= 1_000_000 or value != value.quantize(Decimal("0.01")):
                raise ValueError
            return value.quantize(Decimal("0.01"))

        allowed = "an amount above 0 with at most two decimals"
        return self.read(name, convert, allowed, default=Decimal(default))

    def flag(self, name: str, *, default: bool) -> bool:
        """A truth value."""

        def convert(raw: str) -> bool:
            word = raw.strip().lower()
            if word not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
                raise ValueError
            return word in ("1", "true", "yes", "on")

        return self.read(name, convert, "true or false", default=default)

    def url(self, name: str, default: str) -> str:
        """An HTTP or HTTPS address without query."""

        def convert(raw: str) -> str:
            parts = urlsplit(raw)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise ValueError
            parts.port  # noqa: B018  raises ValueError when it is no port number
            return raw

        return self.read(name, convert, "http://host[:port][/path] or https://…", default=default)

    def file(self, name: str) -> str:
        """The path of a file that exists."""

        def convert(raw: str) -> str:
            if not Path(raw).is_file():
                raise ValueError
            return raw

        return self.read(name, convert, "the path of a file that exists", default="")

    def networks(self, name: str) -> tuple[IPv4Network | IPv6Network, ...]:
        """Networks in CIDR notation, separated by commas."""

        def convert(raw: str) -> tuple[IPv4Network | IPv6Network, ...]:
            return tuple(ipaddress.ip_network(part.strip()) for part in raw.split(",") if part.strip())

        allowed = "addresses or CIDR ranges, separated by commas"
        return self.read(name, convert, allowed, default=())

    def hosts(self, name: str) -> tuple[str, ...]:
        """Names of hosts, each with its port where that is not the usual one, separated by commas."""

        def convert(raw: str) -> tuple[str, ...]:
            hosts = tuple(part.strip().lower() for part in raw.split(",") if part.strip())
            if not all(re.fullmatch(r"[a-z0-9.-]+(:[0-9]{1,5})?", host) for host in hosts):
                raise ValueError
            return hosts

        return self.read(name, convert, "host[:port], separated by commas", default=())
