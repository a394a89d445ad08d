"""The key pair of a test."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """Both halves of an age key."""

    identity: str = field(repr=False)
    recipient: str
