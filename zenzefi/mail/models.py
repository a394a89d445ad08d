"""The words of mail: what is told, and where a mail stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class MailKind(StrEnum):
    """What a mail tells of; its templates have the same name."""

    TOKEN_EXPIRING = "token_expiring"  # noqa: S105  no password
    LOW_BALANCE = "low_balance"
    PAYMENT_RECEIVED = "payment_received"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105


class MailState(StrEnum):
    """Where a mail stands."""

    WAITING = "waiting"
    SENDING = "sending"
    SENT = "sent"
    UNKNOWN = "unknown"
    """Its handing in was interrupted: the server may have it or not. It is never sent again."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """It came to be of no use before it could be sent, or its user was banned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A mail that one process has claimed for an attempt, which `attempts` numbers, and whom it goes to now."""

    id: UUID
    kind: MailKind
    details: Mapping[str, str] = field(repr=False)
    attempts: int
    give_up_at: datetime
    created_at: datetime
    recipient: str = field(repr=False)
    username: str
    is_active: bool
