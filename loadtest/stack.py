"""Which installation is loaded: the one that the environment names, or the stack that `make run` has started."""

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from zenzefi.devstack.plan import home_directory
from zenzefi.devstack.ports import LOOPBACK

_TIMEOUT_S = 5.0


class NothingToLoad(Exception):
    """There is no installation to be found; the message says how to name or start one."""


def require_answer(url: str) -> None:
    """Raise NothingToLoad unless something healthy answers there."""
    try:
        with urlopen(f"{url}/health", timeout=_TIMEOUT_S) as response:  # noqa: S310  whoever starts the test names it
            response.read()
    except (URLError, OSError, ValueError) as error:
        raise NothingToLoad(
            f"Nothing healthy answers at {url}/health ({error}). Start it with `make run` in another terminal, "
            "or name another one: make loadtest LOADTEST_URL=https://…"
        ) from None


def installation(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of the installation whose database gets the people.

    Those of the caller where they name a database, else those of the development stack in ZENZEFI_HOME. Reads its files
    and changes none: the stack is running.

    Raises NothingToLoad.
    """
    if environ.get("POSTGRES_SERVER") or environ.get("POSTGRES_SERVER_FILE"):
        return dict(environ)
    home = home_directory(environ)
    try:
        state = json.loads((home / "state.json").read_text(encoding="utf-8"))
        ports = json.loads((home / "ports.json").read_text(encoding="utf-8"))
        return {
            **environ,
            "ENVIRONMENT": "development",
            "SECRET_KEY": environ.get("SECRET_KEY") or state["secret_key"],
            "POSTGRES_SERVER": LOOPBACK,
            "POSTGRES_PORT": environ.get("POSTGRES_PORT") or str(ports["postgres"]),
            "POSTGRES_PASSWORD": environ.get("POSTGRES_PASSWORD") or state["app_password"],
        }
    except (OSError, ValueError, KeyError, TypeError):
        raise NothingToLoad(
            f"{_shown(home)} is no folder of a development stack, and POSTGRES_SERVER is not set: there is no database "
            "to make people in. Use the ZENZEFI_HOME that `make run` has, give the installation's variables, or give "
            "people that were made beside its database: LOADTEST_PEOPLE_FILE=people.jsonl"
        ) from None


def _shown(home: Path) -> str:
    return str(home.absolute())
