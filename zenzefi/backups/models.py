"""What a manifest says of one backup, and the text that it is stored as."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self, TypeAlias
from uuid import UUID

from zenzefi.backups.errors import BackupDamaged
from zenzefi.backups.properties import DatabaseProperties

FORMAT = 1  # of the manifest; a reader refuses what it does not know
_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{12}")


class VerificationState(StrEnum):
    """Whether the backup was restored and compared."""

    UNVERIFIED = "unverified"
    VERIFIED = "verified"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What came of the last verification; ``reason`` says what was wrong."""

    state: VerificationState = VerificationState.UNVERIFIED
    at: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableProof:
    """A table's content: how many rows, and a digest that does not depend on their order."""

    rows: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotProof:
    """The content and the schema of one snapshot. Keys are qualified names; `schema` has a digest a kind of object.

    Sequences take no part in snapshots: what is restored has come at least as far as `sequences` says.
    """

    migration_head: str | None
    tables: Mapping[str, TableProof]
    sequences: Mapping[str, int]
    schema: Mapping[str, str]

    @property
    def rows(self) -> int:
        """All rows of all tables."""
        return sum(table.rows for table in self.tables.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One backup. ``created_at`` is when its run began; its data is younger by the seconds that the snapshot took.

    Those that earlier versions made have no ``properties``.
    """

    id: str
    run_id: UUID
    created_at: datetime
    finished_at: datetime
    database: str
    server_version: str
    pg_dump_version: str
    zenzefi_version: str
    key_ids: tuple[str, ...]
    object_key: str
    stored_size: int
    sha256: str
    proof: SnapshotProof
    properties: DatabaseProperties | None = None
    verification: Verification = field(default_factory=Verification)

    @property
    def is_verified(self) -> bool:
        """Whether it was restored and found equal."""
        return self.verification.state is VerificationState.VERIFIED

    @property
    def migration_head(self) -> str | None:
        """The newest migration that the database had."""
        return self.proof.migration_head

    @property
    def duration_s(self) -> float:
        """How long the run took."""
        return (self.finished_at - self.created_at).total_seconds()

    def verified(self, *, at: datetime) -> Self:
        """This one, marked as restored and found equal."""
        return replace(self, verification=Verification(state=VerificationState.VERIFIED, at=at))

    def failed(self, *, at: datetime, reason: str) -> Self:
        """This one, marked as not restorable."""
        return replace(self, verification=Verification(state=VerificationState.FAILED, at=at, reason=reason))

    def to_json(self) -> bytes:
        """The text that is stored."""
        document = {
            "format": FORMAT,
            "id": self.id,
            "run_id": str(self.run_id),
            "created_at": _write_time(self.created_at),
            "finished_at": _write_time(self.finished_at),
            "database": self.database,
            "server_version": self.server_version,
            "pg_dump_version": self.pg_dump_version,
            "zenzefi_version": self.zenzefi_version,
            "key_ids": list(self.key_ids),
            "object_key": self.object_key,
            "stored_size": self.stored_size,
            "sha256": self.sha256,
            "verification": {
                "state": self.verification.state.value,
                "at": _write_time(self.verification.at) if self.verification.at else None,
                "reason": self.verification.reason,
            },
            "properties": self.properties.to_document() if self.properties else None,
            "proof": {
                "migration_head": self.proof.migration_head,
                "schema": dict(self.proof.schema),
                "sequences": dict(self.proof.sequences),
                "tables": {name: [table.rows, table.digest] for name, table in self.proof.tables.items()},
            },
        }
        return json.dumps(document, indent=1, sort_keys=False).encode() + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read what `to_json` wrote.

        Raises:
            BackupDamaged: it is none, or one of a later version.
        """
        try:
            document = json.loads(text)
            if document["format"] != FORMAT:
                raise BackupDamaged(
                    f"A manifest has the format {document['format']}, and this version of zenzefi knows {FORMAT}. "
                    "Use the version that made it."
                )
            return cls(**_read_fields(document))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackupDamaged(f"A manifest cannot be read: {error!r}.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is; `phase` is what a person reads."""

    phase: str
    done_bytes: int
    estimated_bytes: int | None = None


Tell: TypeAlias = Callable[[Progress], None]


def make_id(run_id: UUID, *, created_at: datetime) -> str:
    """A backup's name: it sorts by time, and a second of two backups has different ones."""
    return f"{created_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{run_id.hex[-12:]}"


def is_id(text: str) -> bool:
    """Whether it could be a backup's name; anything else must not become part of an object's key."""
    return _ID.fullmatch(text) is not None


def _read_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    verification, proof, properties = document["verification"], document["proof"], document.get("properties")
    return {
        **{
            name: str(document[name])
            for name in ("id", "database", "server_version", "pg_dump_version", "zenzefi_version", "object_key")
        },
        "run_id": UUID(document["run_id"]),
        "created_at": _read_time(document["created_at"]),
        "finished_at": _read_time(document["finished_at"]),
        "key_ids": tuple(str(key_id) for key_id in document["key_ids"]),
        "stored_size": int(document["stored_size"]),
        "sha256": str(document["sha256"]),
        "verification": Verification(
            state=VerificationState(verification["state"]),
            at=_read_time(verification["at"]) if verification["at"] else None,
            reason=verification["reason"],
        ),
        "properties": DatabaseProperties.from_document(properties) if properties else None,
        "proof": SnapshotProof(
            migration_head=proof["migration_head"],
            tables={
                name: TableProof(rows=int(rows), digest=str(digest)) for name, (rows, digest) in proof["tables"].items()
            },
            sequences={name: int(value) for name, value in proof["sequences"].items()},
            schema={kind: str(digest) for kind, digest in proof["schema"].items()},
        ),
    }


def _write_time(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _read_time(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(text)
    return instant
