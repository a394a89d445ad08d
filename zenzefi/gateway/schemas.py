"""What the gateway's own routes give out."""

from marshmallow import Schema, fields, validate

from zenzefi.errors import JsonObject
from zenzefi.gateway.models import GatewaySession, TokenStatus
from zenzefi.web.fields import Timestamp
from zenzefi.web.responses import format_time


class StatusSchema(Schema):
    """What the holder of a token may know of it."""

    connected = fields.Boolean(required=True, metadata={"description": "Always true: an unusable token is a 401"})
    user_id = fields.UUID(required=True)
    token_id = fields.UUID(required=True)
    status = fields.String(required=True, validate=validate.OneOf(["ready", "active"]))
    is_activated = fields.Boolean(required=True)
    expires_at = Timestamp(required=True, allow_none=True)
    time_remaining_seconds = fields.Integer(required=True, metadata={"description": "The whole time before first use"})
    duration_hours = fields.Integer(required=True)
    scope = fields.String(required=True)
    device = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "The end of the holding device's id", "example": "…a1b2"},
    )
    holds_device = fields.Boolean(
        required=True, allow_none=True, metadata={"description": "Whether that is the device of X-Device-ID, if given"}
    )


class SessionSchema(Schema):
    """A run of requests of one device, no two of them more than five minutes apart."""

    id = fields.UUID(required=True)
    device = fields.String(required=True, metadata={"description": "The end of the device's id", "example": "…a1b2"})
    ip = fields.String(required=True, allow_none=True)
    user_agent = fields.String(required=True, allow_none=True)
    started_at = Timestamp(required=True)
    last_activity = Timestamp(required=True)
    ended_at = Timestamp(required=True, allow_none=True)
    request_count = fields.Integer(required=True)
    bytes_in = fields.Integer(required=True)
    bytes_out = fields.Integer(required=True)


class SessionPageSchema(Schema):
    """A page of sessions, the newest first."""

    items = fields.List(fields.Nested(SessionSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


def status_json(status: TokenStatus) -> JsonObject:
    """A status in the form of StatusSchema."""
    grant = status.grant
    is_activated = grant.activated_at is not None
    return {
        "connected": True,
        "user_id": str(grant.user_id),
        "token_id": str(grant.token_id),
        "status": "active" if is_activated else "ready",
        "is_activated": is_activated,
        "expires_at": None if grant.expires_at is None else format_time(grant.expires_at),
        "time_remaining_seconds": status.time_remaining_s,
        "duration_hours": grant.duration_hours,
        "scope": grant.scope,
        "device": status.device_hint,
        "holds_device": status.holds_device,
    }


def session_json(session: GatewaySession) -> JsonObject:
    """A session in the form of SessionSchema."""
    return {
        "id": str(session.session_id),
        "device": session.device_hint,
        "ip": None if session.ip is None else str(session.ip),
        "user_agent": session.user_agent,
        "started_at": format_time(session.started_at),
        "last_activity": format_time(session.last_activity),
        "ended_at": None if session.ended_at is None else format_time(session.ended_at),
        "request_count": session.request_count,
        "bytes_in": session.bytes_in,
        "bytes_out": session.bytes_out,
    }
