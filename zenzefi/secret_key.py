"""What may be a SECRET_KEY: nothing short, nothing that everybody knows."""

from typing import Final

from zenzefi.environment import SettingsError

MIN_SECRET_BYTES: Final = 32
# Keys that stand in examples and tutorials: known to everybody, hence no secret.
WELL_KNOWN_SECRETS: Final = frozenset(
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


def check_secret_key(key: str, *, is_development: bool) -> str:
    """The key itself, if it can be used; in development a well-known one can.

    Raises:
        SettingsError: it is too short, missing, or anybody can guess it; the message does not repeat it.
    """
    if len(key.encode()) < MIN_SECRET_BYTES and (key or not is_development):
        raise SettingsError(
            f"SECRET_KEY has {len(key.encode())} bytes; at least {MIN_SECRET_BYTES} are needed. "
            "Make one with: openssl rand -hex 32"
        )
    if not is_development and _is_guessable(key):
        raise SettingsError(
            "SECRET_KEY is a well-known example or repeats a few characters, so anybody can guess it. "
            "Make one with: openssl rand -hex 32"
        )
    if not key:
        raise SettingsError(
            "SECRET_KEY is not set. `make run` makes one for development; elsewhere: openssl rand -hex 32"
        )
    return key


def _is_guessable(key: str) -> bool:
    """Whether the key is a well-known one, or is made of so few characters that it might as well be."""
    return key.lower() in WELL_KNOWN_SECRETS or len(set(key)) < 8
