"""Small files that only their owner may read, written so that a crash leaves the old or the new one."""

import os
import secrets
from pathlib import Path

from zenzefi.devstack.errors import StateBroken


def write_private_file(path: Path, text: str) -> None:
    """Replace `path` by a file with this text and mode 0600, atomically and durably."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise StateBroken(f"Cannot write {path}: {error.strerror}. Make its folder writable.") from error


def read_or_make_secret(path: Path) -> str:
    """The secret in this file; made at random (256 bits) when there is none yet."""
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        secret = secrets.token_urlsafe(32)
        write_private_file(path, secret + "\n")
        return secret
    except (OSError, UnicodeDecodeError) as error:
        raise StateBroken(f"Cannot read {path}: {error}. Remove the folder {path.parent} to begin anew.") from error
    if not secret:
        raise StateBroken(f"{path} is empty. Remove the folder {path.parent} to begin anew.")
    return secret
