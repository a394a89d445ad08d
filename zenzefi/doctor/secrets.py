"""The secrets: hard to guess, each its own, readable by nobody else, and none that this machine does not need."""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from zenzefi.doctor.findings import Finding, fail, ok, warn
from zenzefi.settings import Settings

# What a password generator gives at the least: 16 letters and digits are 95 bits.
MIN_PASSWORD_CHARS: Final = 16
_MIN_DISTINCT_CHARS: Final = 8
_WELL_KNOWN_PARTS: Final = (
    "password",
    "changeme",
    "change-me",
    "minioadmin",
    "example",
    "postgres",
    "zenzefi",
    "qwerty",
)

_SECRET_FILE: Final = re.compile(r"[A-Z0-9_]*(PASSWORD|SECRET_KEY|ACCESS_KEY|IDENTITY|SECRET|SECRET_PREVIOUS)_FILE")


def check_secrets(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """Judge what is secret, and the files that it came from."""
    return [
        _check_passwords(settings),
        _check_reuse(settings),
        *_check_files(environ),
        *_check_backup_keys(settings),
    ]


def _passwords(settings: Settings) -> dict[str, str]:
    """The secrets that somebody made up for this installation; those that others hand out are theirs to make well."""
    passwords = {
        "POSTGRES_PASSWORD": settings.postgres_password,
        "POSTGRES_OWNER_PASSWORD": settings.postgres_owner_password,
        "BACKUP_POSTGRES_PASSWORD": settings.backup.postgres_password,
        "REDIS_PASSWORD": settings.redis_password,
        "QUEUE_REDIS_PASSWORD": settings.queue_redis_password,
        "S3_SECRET_KEY": settings.s3.secret_key,
    }
    without_login = not settings.postgres_password and settings.postgres_server.startswith("/")
    return {name: value for name, value in passwords.items() if value or not _may_be_empty(name, without_login)}


def _may_be_empty(name: str, without_login: bool) -> bool:
    """S3 takes the machine's own role without keys; PostgreSQL knows who is at the other end of a Unix socket.

    Redis is asked what it does without (zenzefi.doctor.redis).
    """
    return "POSTGRES" not in name or without_login


def _check_passwords(settings: Settings) -> Finding:
    weak = [name for name, value in _passwords(settings).items() if is_weak(value)]
    if weak:
        detail = f"easily guessed: {', '.join(weak)}"
        return fail("passwords", detail, "Make each anew with: openssl rand -hex 24")
    return ok("passwords", "none is short or well known")


def is_weak(password: str) -> bool:
    """Whether a password is short, repeats itself, or is made of what everybody tries first."""
    low = password.lower()
    is_long = len(password) >= MIN_PASSWORD_CHARS and len(set(password)) >= _MIN_DISTINCT_CHARS
    # A well-known word does no harm within what is long enough without it.
    known = max((len(part) for part in _WELL_KNOWN_PARTS if part in low), default=0)
    return not is_long or (known > 0 and len(password) - known < MIN_PASSWORD_CHARS)


def _check_reuse(settings: Settings) -> Finding:
    names: dict[str, list[str]] = {}
    same_login = settings.postgres_owner_user == settings.postgres_user
    secrets = {
        "SECRET_KEY": settings.secret_key,
        "POSTGRES_PASSWORD": settings.postgres_password,
        **({} if same_login else {"POSTGRES_OWNER_PASSWORD": settings.postgres_owner_password}),
        "REDIS_PASSWORD": settings.redis_password,
        "S3_SECRET_KEY": settings.s3.secret_key,
        "SMTP_PASSWORD": settings.mail.password,
    }
    for name, value in secrets.items():
        if value:
            names.setdefault(value, []).append(name)
    shared = [" and ".join(of_it) for of_it in names.values() if len(of_it) > 1]
    if shared:
        return fail("secrets' use", f"the same: {'; '.join(shared)}", "Whoever learns one has all: make one for each.")
    return ok("secrets' use", "each for one thing")


def _check_files(environ: Mapping[str, str]) -> list[Finding]:
    secret = {name: Path(path) for name, path in environ.items() if path and _SECRET_FILE.fullmatch(name)}
    if not secret:
        return [ok("secret files", "none: secrets come from the environment")]
    readable = [f"{name}={path}" for name, path in secret.items() if _is_for_all(path)]
    if readable:
        fix = "chmod o= each, and chown it to the user that zenzefi runs as."
        return [fail("secret files", f"every user of this machine can read {', '.join(readable)}", fix)]
    return [ok("secret files", f"{len(secret)}, for their owner and group alone")]


def _is_for_all(path: Path) -> bool:
    """Whether a stranger on this machine could read or write it: no folder on the way keeps him out."""
    if os.path.ismount(path):
        return False  # put into a container by itself: nobody else is in there, and the machine's own file is elsewhere
    try:
        reachable = all(folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents)
        return reachable and bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))
    except OSError:
        return False  # the settings have said so already


def _check_backup_keys(settings: Settings) -> list[Finding]:
    backup = settings.backup
    if not backup.recipients:
        fix = "zenzefi backup key makes a pair: BACKUP_RECIPIENTS takes the public key, a safe takes the other."
        return [fail("backup key", "BACKUP_RECIPIENTS is not set: no backup is made", fix)]
    if backup.identity:
        fix = "Set BACKUP_IDENTITY only where backups are verified (the heavy worker), or verify on a machine apart."
        return [warn("backup key", "the secret key is here: who takes this machine can read all backups", fix)]
    return [ok("backup key", f"{len(backup.recipients)} public, and no secret one here")]
