"""docker-compose.yml, read as Docker Compose reads it: merge keys, variables, and one environment for each service."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from deploy.checks.debian import ROOT
from deploy.checks.failures import CheckFailed
from deploy.checks.files import read_yaml

COMPOSE_FILE: Final = ROOT / "docker-compose.yml"
ENV_EXAMPLE: Final = ROOT / ".env.example"
SECRETS_FOLDER: Final = "/run/secrets/"
# $$, ${NAME}, ${NAME:-default} and ${NAME:?what is missing}: no other form is used here.
_VARIABLE: Final = re.compile(r"\$(?:(\$)|\{([A-Z][A-Z0-9_]*)(?:(:[-?])([^}]*))?\})")

Service = Mapping[str, Any]


def read_services(variables: Mapping[str, str]) -> dict[str, Service]:
    """All services, whatever their profile, with these variables put in."""
    return dict(read_compose(variables)["services"])


def read_compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """The whole file with these variables put in; raises CheckFailed when a required one is missing."""
    return dict(_put_in(read_yaml(COMPOSE_FILE), variables))


def variables_of_compose() -> set[str]:
    """The names of all variables that the file reads."""
    text = "\n".join(line for line in COMPOSE_FILE.read_text(encoding="utf-8").splitlines() if line.strip()[:1] != "#")
    return {match[2] for match in _VARIABLE.finditer(text) if match[2]}


def example_variables() -> dict[str, str]:
    """What .env.example sets: what has no default."""
    return {name: value for name, value, is_set in read_env_example() if is_set}


def read_env_example() -> Iterator[tuple[str, str, bool]]:
    """Each variable of .env.example, its value, and whether it is set there (else it is the default, behind a #)."""
    for line in ENV_EXAMPLE.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"(#?)([A-Z][A-Z0-9_]*)=(.*)", line):
            yield match[2], match[3], not match[1]


def environment_of(service: Service, env_file: Mapping[str, str]) -> dict[str, str]:
    """The variables that a container of the service gets, with this content of .env."""
    inherited = env_file if ".env" in service.get("env_file", ()) else {}
    return {**inherited, **{name: str(value) for name, value in service.get("environment", {}).items()}}


def networks_of(service: Service) -> set[str]:
    """The networks that a service is in; for one in the network of another service, none."""
    return set(service.get("networks", ()))


def secrets_of(service: Service) -> dict[str, str]:
    """The path inside of each secret that a service gets."""
    paths = {}
    for secret in service.get("secrets", ()):
        source = secret if isinstance(secret, str) else secret["source"]
        paths[source] = SECRETS_FOLDER + source if isinstance(secret, str) else secret["target"]
    return paths


def _put_in(node: Any, variables: Mapping[str, str]) -> Any:
    match node:
        case str():
            put_in = _VARIABLE.sub(lambda match: _value(match, variables), node)
            # A number or a truth value that a variable stands for is one.
            return node if put_in == node else _typed(put_in)
        case list():
            return [_put_in(item, variables) for item in node]
        case dict():
            return {name: _put_in(value, variables) for name, value in node.items()}
    return node


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    dollar, name, operator, word = match.groups()
    if dollar:
        return "$"
    value = variables.get(name, "")
    if not value and operator == ":?":
        raise CheckFailed(f"docker-compose.yml: {word}")
    return value or (word if operator == ":-" else "")


def _typed(text: str) -> Any:
    value = yaml.safe_load(text) if text else ""
    return value if isinstance(value, int) else text
