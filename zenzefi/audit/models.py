"""What an audit row says, and whom it names."""

from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Self
from uuid import UUID

from zenzefi.errors import JsonObject


class ActorKind(StrEnum):
    """Who acts: a signed-in person, the system itself, or an operator on the command line."""

    USER = "user"
    SYSTEM = "system"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts, and from where."""

    kind: ActorKind
    user_id: UUID | None = None
    ip: str | None = None
    user_agent: str | None = None
    request_id: str | None = None

    @classmethod
    def system(cls) -> Self:
        """The system itself: a job or a rule."""
        return cls(kind=ActorKind.SYSTEM)

    @classmethod
    def operator(cls) -> Self:
        """Somebody at the command line."""
        return cls(kind=ActorKind.OPERATOR)

    def known_as(self, user_id: UUID) -> Self:
        """The same client, who has just shown to be this user; an operator stays one."""
        if self.kind is ActorKind.OPERATOR:
            return self
        return replace(self, kind=ActorKind.USER, user_id=user_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One row of the audit log."""

    id: UUID
    at: datetime
    actor_kind: ActorKind
    actor_user_id: UUID | None
    action: str
    resource_type: str
    resource_id: str
    before: JsonObject | None
    after: JsonObject | None
    ip: IPv4Address | IPv6Address | None
    user_agent: str | None
    request_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """One link of the chain over the log; `covered_until` is up to when it and those before it cover all rows."""

    seal_no: int
    covered_until: datetime
    row_count: int
    seal_hash: bytes


class AuditFaultKind(StrEnum):
    """What a verification may find."""

    ALTERED = "altered"
    MISSING = "missing"
    INSERTED = "inserted"
    SEAL_BROKEN = "seal_broken"
    SEAL_MISSING = "seal_missing"
    ANCHOR_LOST = "anchor_lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFault:
    """One thing that does not fit: `subject` is the id of a row or the number of a seal."""

    kind: AuditFaultKind
    subject: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What a verification of the whole log found; the faults of one kind are listed up to a bound."""

    head: Seal | None
    sealed_rows: int
    waiting_rows: int
    faults: tuple[AuditFault, ...]

    @property
    def is_sound(self) -> bool:
        """Whether everything fits."""
        return not self.faults


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedRow:
    """A row of the log as it goes to an archive, and the hash that its seal has of it, if there is one."""

    entry_id: UUID
    text: str
    row_hash: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A month of the log as an object of S3; size and digest are those of the compressed object."""

    id: UUID
    month: date
    object_key: str
    row_count: int
    size_bytes: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedMonth:
    """A month that the log no longer has: its archive, and the range of ids that its seals are of."""

    archive: Archive
    first_id: UUID
    end_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveCheck:
    """What came of comparing one month's archive with its record and its seals; no fault means that it fits."""

    archive: Archive
    fault: str | None
