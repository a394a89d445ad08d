""".env.example: whether it names every setting with its default and nothing else, and what docker-compose.yml reads."""

import re
from collections.abc import Iterator
from typing import Final
from unittest.mock import patch

from deploy.checks.compose_file import (
    COMPOSE_FILE,
    environment_of,
    example_variables,
    read_env_example,
    read_services,
    variables_of_compose,
)
from deploy.checks.failures import require
from zenzefi.environment import EnvironmentReader
from zenzefi.settings import Settings

# What others read: OpenTelemetry's library, and `docker compose` itself.
_READ_BY_OTHERS: Final = {
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "COMPOSE_PROFILES",
}
# The services that run our own images.
_OURS: Final = ("migrate", "web", "worker", "worker-heavy")
# Some are read only where others are set.
_MINIMAL: Final = {"SECRET_KEY": "0123456789abcdef" * 2, "SMTP_HOST": "mail.example", "MAIL_FROM": "a@mail.example"}


def check_environment() -> None:
    """Raise CheckFailed with what is missing, unknown, or not the default that it is said to be."""
    require([*_names(), *_defaults(), *_services()], what=".env.example")


def settings_variables() -> set[str]:
    """The names of all variables that Settings reads."""
    read: set[str] = set()
    raw = EnvironmentReader.raw

    def recording(self: EnvironmentReader, name: str) -> str | None:
        read.add(name)
        return raw(self, name)

    with patch.object(EnvironmentReader, "raw", recording):
        Settings.from_env(_MINIMAL)
    return read


def _names() -> Iterator[str]:
    named = [name for name, _, _ in read_env_example()]
    known = settings_variables() | variables_of_compose()
    for name in sorted(known - set(named)):
        yield f"{name} is missing"
    for name in sorted(set(named) - known - _READ_BY_OTHERS):
        yield f"nobody reads {name}"
    for name in sorted({name for name in named if named.count(name) > 1}):
        yield f"{name} is there twice"


def _defaults() -> Iterator[str]:
    """Setting a variable to what is said to be its default changes nothing."""
    settings, of_compose = settings_variables(), dict(_defaults_of_compose())
    untouched = Settings.from_env(_MINIMAL)
    for name, value, is_set in read_env_example():
        if is_set:
            if name in settings and Settings.from_env({**_MINIMAL, name: value}) == untouched:
                yield f"{name}={value} is the default, and not commented out"
        elif name in settings:
            if name not in _MINIMAL and Settings.from_env({**_MINIMAL, name: value}) != untouched:
                yield f"{value} is not the default of {name}"
        elif value != of_compose.get(name, value):
            yield f"docker-compose.yml takes {of_compose[name]} for {name}, not {value}"


def _defaults_of_compose() -> Iterator[tuple[str, str]]:
    text = COMPOSE_FILE.read_text(encoding="utf-8")
    yield from re.findall(r"\$\{([A-Z0-9_]+):-([^}]*)\}", text)


def _services() -> Iterator[str]:
    """What docker-compose.yml tells our images are settings, and together they can be used."""
    known = settings_variables()
    for name, service in read_services(example_variables()).items():
        if name not in _OURS:
            continue
        told = service["environment"]
        for variable in sorted(set(told) - known - {f"{setting}_FILE" for setting in known}):
            yield f"docker-compose.yml tells {name} {variable}, which is no setting"
        values = {**environment_of(service, example_variables()), "SECRET_KEY": _MINIMAL["SECRET_KEY"]}
        Settings.from_env({variable: value for variable, value in values.items() if not _is_secret(value)})


def _is_secret(value: str) -> bool:
    return value.startswith("/run/secrets/")
