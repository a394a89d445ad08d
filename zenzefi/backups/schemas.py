"""What people and programs are shown of a backup."""

from marshmallow import Schema, fields

from zenzefi.backups.models import Manifest
from zenzefi.errors import JsonObject
from zenzefi.web.fields import Timestamp


class BackupSchema(Schema):
    """A backup. All but its id is null when its manifest cannot be read."""

    id = fields.String(required=True)
    state = fields.String(required=True, metadata={"enum": ["unverified", "verified", "failed", "unreadable"]})
    reason = fields.String(required=True, allow_none=True, metadata={"description": "What is wrong with it"})
    verified_at = Timestamp(required=True, allow_none=True)
    created_at = Timestamp(required=True, allow_none=True)
    finished_at = Timestamp(required=True, allow_none=True)
    stored_bytes = fields.Integer(required=True, allow_none=True)
    sha256 = fields.String(required=True, allow_none=True, metadata={"description": "Of the object as it is stored"})
    object_key = fields.String(required=True, allow_none=True)
    key_ids = fields.List(fields.String(), required=True, allow_none=True)
    rows = fields.Integer(required=True, allow_none=True)
    migration_head = fields.String(required=True, allow_none=True)
    server_version = fields.String(required=True, allow_none=True)


class BackupListSchema(Schema):
    """All backups, the newest first."""

    items = fields.List(fields.Nested(BackupSchema), required=True)


class BackupRequestSchema(Schema):
    """A backup that was asked for."""

    job_id = fields.String(required=True)


_BACKUP = BackupSchema()


def backup_json(manifest: Manifest) -> JsonObject:
    """What a manifest says, without the digests of its proof."""
    verification, proof = manifest.verification, manifest.proof
    document: JsonObject = _BACKUP.dump(
        {
            "id": manifest.id,
            "state": verification.state.value,
            "reason": verification.reason,
            "verified_at": verification.at,
            "created_at": manifest.created_at,
            "finished_at": manifest.finished_at,
            "stored_bytes": manifest.stored_size,
            "sha256": manifest.sha256,
            "object_key": manifest.object_key,
            "key_ids": manifest.key_ids,
            "rows": proof.rows,
            "migration_head": proof.migration_head,
            "server_version": manifest.server_version,
        }
    )
    return document


def unreadable_json(backup_id: str, reason: str) -> JsonObject:
    """What is known of a backup whose manifest cannot be read."""
    return {**dict.fromkeys(_BACKUP.fields), "id": backup_id, "state": "unreadable", "reason": reason}
