"""What makes an email address, a username and a password acceptable. Pure: no I/O but one data file, read once."""

import re
import unicodedata
from functools import cache
from importlib.resources import files

EMAIL_MAX_LENGTH = 254  # of an address in an SMTP path without its brackets (RFC 5321, section 4.5.3.1.3)
EMAIL_LOCAL_PART_MAX_LENGTH = 64  # RFC 5321, section 4.5.3.1.1
USERNAME_MIN_LENGTH, USERNAME_MAX_LENGTH = 3, 50
PASSWORD_MIN_LENGTH, PASSWORD_MAX_LENGTH = 8, 256
FULL_NAME_MAX_LENGTH = 100

# ASCII alone, on purpose: what PostgreSQL and Python make of lower() differs by their Unicode versions, and letters of
# other scripts that look like Latin ones would let one account pose as another.
USERNAME_PATTERN = r"^[A-Za-z0-9_.-]{3,50}$"
_USERNAME = re.compile(USERNAME_PATTERN, re.ASCII)
_LOCAL_PART = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_DOMAIN = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])")

_BAD_EMAIL = "Must be an email address such as name@example.org, in ASCII and of at most 254 characters."
_BAD_USERNAME = "Must be 3 to 50 characters, each an ASCII letter, a digit or one of _ . -"
_BAD_LENGTH = "Must be 8 to 256 characters."
_COMMON = "Is one of the most common passwords; choose another one."
_SAME_AS_NAME = "Must not be the email address or the username."


def normalise_email(email: str) -> str:
    """The one form in which an address is stored, compared and looked up."""
    return email.strip().lower()


def normalise_password(password: str) -> str:
    """The form in which a password is hashed: keyboards differ in how they compose the same letters.

    NFKC, as NIST SP 800-63B, section 3.1.1.2, advises.
    """
    return unicodedata.normalize("NFKC", password)


def account_problems(*, email: str, username: str, password: str) -> dict[str, list[str]]:
    """What keeps a new account from being made: messages by field, empty when nothing does. The email is normalised."""
    problems: dict[str, list[str]] = {}
    if not _is_email(email):
        problems["email"] = [_BAD_EMAIL]
    if not _USERNAME.fullmatch(username):
        problems["username"] = [_BAD_USERNAME]
    if found := password_problems(password, email=email, username=username):
        problems["password"] = found
    return problems


def password_problems(password: str, *, email: str, username: str) -> list[str]:
    """What is wrong with a new password of the account with this email and username."""
    if not PASSWORD_MIN_LENGTH <= len(password) <= PASSWORD_MAX_LENGTH:
        return [_BAD_LENGTH]
    folded = normalise_password(password).casefold().strip()
    if folded in (email.casefold(), username.casefold()):
        return [_SAME_AS_NAME]
    if folded in _common_passwords():
        return [_COMMON]
    return []


def _is_email(email: str) -> bool:
    local_part, at, domain = email.rpartition("@")
    return (
        bool(at)
        and len(email) <= EMAIL_MAX_LENGTH
        and len(local_part) <= EMAIL_LOCAL_PART_MAX_LENGTH
        and _LOCAL_PART.fullmatch(local_part) is not None
        and _DOMAIN.fullmatch(domain) is not None
    )


@cache
def _common_passwords() -> frozenset[str]:
    text = files("zenzefi.accounts").joinpath("common_passwords.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("# "))
