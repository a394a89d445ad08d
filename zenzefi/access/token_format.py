"""The shape of a token string, and the only two things that are ever kept of one: its hash and its hint.

``znz_`` + SECRET + CHECKSUM, 53 ASCII characters:

* SECRET, 43 characters: base64url without padding (RFC 4648, section 5) of 32 random bytes.
* CHECKSUM, 6 characters: the CRC-32 of ``znz_`` + SECRET in base 62 (0-9 A-Z a-z), padded on the left with zeros.

The prefix lets secret scanners recognise a leaked token; the checksum lets us refuse a mistyped or invented one without
asking Redis or PostgreSQL. It is no secret and protects against nothing else.
"""

import base64
import hashlib
import re
import zlib
from typing import Final

PREFIX: Final = "znz_"
SECRET_BYTES: Final = 32
TOKEN_LENGTH: Final = 53

_CHECKSUM_LENGTH: Final = 6  # 62**6 is the first power of 62 above 2**32
_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Two digits at a time: the checksum is looked at with every request.
_PAIRS: Final = tuple(high + low for high in _BASE62 for low in _BASE62)
# The 43rd character of the secret holds 4 bits: 16 characters of the alphabet can stand there, the others never do.
_SHAPE: Final = re.compile(r"znz_[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048][0-9A-Za-z]{6}")
# Four characters are 24 of the secret's 256 bits: enough to tell one's own tokens apart, and useless to a guesser.
_HINT_LENGTH: Final = len(PREFIX) + 4


def mint(secret: bytes) -> str:
    """The token string of 32 random bytes.

    Raises:
        ValueError: there are not exactly 32 bytes.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a token is made of {SECRET_BYTES} bytes, not of {len(secret)}")
    body = PREFIX + base64.urlsafe_b64encode(secret).decode("ascii").rstrip("=")
    return body + _checksum(body)


def is_well_formed(text: str) -> bool:
    """Whether ``text`` can be a token of ours at all: prefix, length, alphabet and checksum. Costs no query."""
    return _SHAPE.fullmatch(text) is not None and _checksum(text[:-_CHECKSUM_LENGTH]) == text[-_CHECKSUM_LENGTH:]


def hash_token(token: str) -> bytes:
    """SHA-256 of the whole string: what is stored and looked up. 256 random bits need neither salt nor a slow hash.

    Raises:
        UnicodeEncodeError: the string is not ASCII; ``is_well_formed`` was not asked first.
    """
    return hashlib.sha256(token.encode("ascii")).digest()


def hint_of(token: str) -> str:
    """How a token begins, for its owner to recognise it by: ``znz_`` and 4 characters."""
    return token[:_HINT_LENGTH]


def _checksum(body: str) -> str:
    rest, low = divmod(zlib.crc32(body.encode("ascii")), len(_PAIRS))
    high, middle = divmod(rest, len(_PAIRS))
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]
