"""Refresh tokens as strings: opaque to clients, and hashed at rest. Pure."""

import hashlib
import re
import secrets

LENGTH = 47
_FORM = re.compile(r"znr_[A-Za-z0-9_-]{43}")
_RANDOM_BYTES = 32  # 256 bits of randomness: SHA-256 without salt is enough at rest


def mint() -> str:
    """A new refresh token: ``znr_`` and 43 characters of base64url."""
    return f"znr_{secrets.token_urlsafe(_RANDOM_BYTES)}"


def is_well_formed(token: str) -> bool:
    """Whether the text has the form of a refresh token; anything else needs no look at the database."""
    return _FORM.fullmatch(token) is not None


def hash_token(token: str) -> bytes:
    """What is stored in the token's place."""
    return hashlib.sha256(token.encode()).digest()
