"""Referral codes: short enough to be dictated. Pure."""

import re
import secrets

# Without 0 O 1 I L, which people mistake for one another. 31^8 is 8.5e11 codes: a new one meets one of a million
# existing ones once in a million times, and is then drawn again.
_ALPHABET = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"
_LENGTH = 8
_FORM = re.compile(f"[{_ALPHABET}]{{{_LENGTH}}}")


def mint() -> str:
    """A new code."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def normalise(text: str) -> str | None:
    """The code as it is stored, whatever the case it was typed in; None when it cannot be one."""
    typed = text.strip()
    code = typed.upper()
    # Some letters become others of the alphabet in upper case: ß, for one, two S.
    return code if typed.isascii() and _FORM.fullmatch(code) else None
